"""Which calls are open on which connection, so that a front end knows when it may tell a client to go (`draining`).

The event loop's thread alone. A call is *answering* from the moment that its handler hands an answer to grpcio until grpcio has
written it; a call that streams answers is answering for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ipaddress
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc

Context = Any
Behaviour = Callable[[Any, Context], Any]

STOPPING = "the server is stopping"


class Peer(NamedTuple):
    """Where a connection comes from. An IPv4 address is written as such, also where the socket is one of IPv6."""

    host: str
    port: int


def peer_of(host: str, port: int) -> Peer:
    """The peer of these, as the system's `getpeername` gives them."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Peer(str(mapped or address), port)


def named_peer(text: str) -> Peer | None:
    """The peer that grpcio calls `ipv4:10.0.0.1:5` or `ipv6:%5B::1%5D:5`; None for what comes over no TCP connection."""
    kind, _, where = unquote(text).partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return None
    host, _, port = where.rpartition(":")
    return peer_of(host.strip("[]"), int(port))


def _peers(texts: Iterable[str]) -> set[Peer]:
    return {peer for text in texts if (peer := named_peer(text)) is not None}


class OpenCalls:
    """Counts calls by the connection that they came over. `refusing`: new calls end as UNAVAILABLE, and `refused` counts them."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._answering: Counter[str] = Counter()
        self.refusing = False
        self.refused = 0
        self._held: asyncio.Future[None] | None = None

    def peers(self) -> tuple[set[Peer], set[Peer]]:
        """The connections with open calls, and those of them with a call that is answering."""
        return _peers(self._open), _peers(self._answering)

    def counted(self, handler: Any) -> Any:
        """The handler of a method, with its calls counted."""
        sides = handler.request_streaming, handler.response_streaming
        kind = "_".join("stream" if streams else "unary" for streams in sides)
        behaviour = getattr(handler, kind)
        if not handler.response_streaming:
            behaviour = self._answering_once(behaviour)
        elif inspect.isasyncgenfunction(behaviour):
            behaviour = self._generating(behaviour)
        else:
            behaviour = self._streaming(behaviour)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _answering_once(self, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, context: Context) -> Any:
            if self.refusing:
                await self._refuse(context)
            peer = self._enter(context)
            try:
                found = await behaviour(request, context)
                if self._held is not None:
                    await asyncio.shield(self._held)  # the call may be cancelled, the others' future not
                return found
            finally:
                self._answering[peer] += 1

        return answer

    def _streaming(self, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, context: Context) -> Any:
            if self.refusing:
                await self._refuse(context)
            self._answering[self._enter(context)] += 1
            return await behaviour(request, context)

        return answer

    def _generating(self, behaviour: Behaviour) -> Behaviour:
        async def answers(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            if self.refusing:
                await self._refuse(context)
            self._answering[self._enter(context)] += 1
            async with contextlib.aclosing(behaviour(request, context)) as found:
                async for answer in found:
                    yield answer

        return answers

    async def _refuse(self, context: Context) -> None:
        self.refused += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)

    def _enter(self, context: Context) -> str:
        peer: str = context.peer()
        self._open[peer] += 1
        context.add_done_callback(partial(self._leave, peer))
        return peer

    def _leave(self, peer: str, context: Context) -> None:
        for counted in (self._open, self._answering):
            counted[peer] -= 1
            if counted[peer] <= 0:
                del counted[peer]

    def hold(self, held: bool) -> None:
        """Whether answers of unary calls wait before grpcio gets them, so that soon none is being written."""
        if held and self._held is None:
            self._held = asyncio.get_running_loop().create_future()
        elif not held and self._held is not None:
            self._held.set_result(None)
            self._held = None

    async def refuse(self, quiet: float, longest: float) -> None:
        """Refuses new calls from now on; returns when none has come for `quiet` seconds, or after `longest`."""
        self.refusing = True
        loop = asyncio.get_running_loop()
        end, before = loop.time() + longest, -1
        while before != self.refused and loop.time() < end:
            before = self.refused
            await asyncio.sleep(quiet)
