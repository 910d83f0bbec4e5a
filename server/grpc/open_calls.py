"""Which calls are open on which connection and what they wait for: so that a front end knows when it may tell a client to go
(`draining`), and whose calls end where clients have it hold too much (`pressure`).

The event loop's thread alone. A call is *answering* from the moment that its handler hands an answer to grpcio until grpcio has
written it; a call that streams answers is answering for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ipaddress
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc

from . import access_line

Context = Any
Behaviour = Callable[[Any, Context], Any]

STOPPING = "the server is stopping"
WAITED = (
    "the server holds as many bytes of requests and unread answers as it may (max_held_bytes), or as many calls, and this one "
    "keeps it waiting; try again later"
)


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


def peers_of(texts: Iterable[str]) -> set[Peer]:
    """The peers that grpcio calls so."""
    return {peer for text in texts if (peer := named_peer(text)) is not None}


class OpenCall:
    """One call.

    began      when it came (monotonic seconds);  request_id: as far as it is known, of a stream never
    since      when it began to wait for its client (monotonic seconds); of a stream: for its client to take an answer
    holds      bytes of answers that its client has not taken; of a stream those too that wait to be sent
    answering  see above
    evicted    it was ended because its client keeps the server waiting; cut: and so was its connection
    """

    __slots__ = ("answering", "began", "cut", "evicted", "holds", "path", "peer", "request_id", "since", "task")

    def __init__(self, path: str, peer: str, task: asyncio.Task[Any] | None) -> None:
        self.path, self.peer, self.task = path, peer, task
        self.request_id = ""
        self.began = self.since = time.monotonic()
        self.answering = self.evicted = self.cut = False
        self.holds = 0


#: The call that a task answers.
_CURRENT: ContextVar[OpenCall | None] = ContextVar("call", default=None)


def has_id(request_id: str) -> None:
    """Says which request the call of this task brought."""
    call = _CURRENT.get()
    if call is not None:
        call.request_id = request_id


async def write(context: Context, answer: Any, waiting: int = 0) -> None:
    """Hands an answer of this task's stream to grpcio; returns when its client takes it. `waiting`: bytes of those after it."""
    call = _CURRENT.get()
    if call is not None:
        call.holds, call.since = _size(answer) + waiting, time.monotonic()
    await context.write(answer)
    if call is not None:
        call.holds = waiting


def _size(answer: Any) -> int:
    """Bytes of an answer, serialized or not."""
    return len(answer) if isinstance(answer, bytes) else int(answer.ByteSize())


class OpenCalls:
    """All calls of a front end. `refusing`: new calls end as UNAVAILABLE, and `refused` counts them.

    receiving   calls whose request is still on its way
    unread      calls whose answer grpcio has, and their clients have not yet
    streams     calls with a stream on one side, whatever they do
    Each in the order in which that began.
    """

    def __init__(self) -> None:
        self._open: set[OpenCall] = set()
        self._some = asyncio.Event()
        self.receiving: dict[OpenCall, None] = {}
        self.unread: dict[OpenCall, None] = {}
        self.streams: dict[OpenCall, None] = {}
        self.refusing = False
        self.refused = 0
        self._held: asyncio.Future[None] | None = None

    async def wait_for_one(self) -> None:
        """Returns when a call is open."""
        await self._some.wait()

    def peers(self) -> tuple[set[Peer], set[Peer]]:
        """The connections with open calls, and those of them with a call that is answering."""
        busy = {call.peer for call in self._open}
        return peers_of(busy), peers_of({call.peer for call in self._open if call.answering})

    def counted(self, path: str, handler: Any) -> Any:
        """The handler of a method, with its calls counted and written into the access log.

        A unary request is read here, as the first and only one of a stream, which is the same on the wire: grpcio would read it
        before anybody knows of the call.
        """
        sides = handler.request_streaming, handler.response_streaming
        behaviour = getattr(handler, "_".join("stream" if streams else "unary" for streams in sides))
        reads = not handler.request_streaming
        if not handler.response_streaming:
            counted, make = self._once(path, behaviour, reads), grpc.stream_unary_rpc_method_handler
        elif inspect.isasyncgenfunction(behaviour):
            counted, make = self._generating(path, behaviour, reads), grpc.stream_stream_rpc_method_handler
        else:
            counted, make = self._streaming(path, behaviour), grpc.stream_stream_rpc_method_handler
        return make(counted, handler.request_deserializer, handler.response_serializer)

    # -- the handlers of calls ---------------------------------------------------------------------------------------------

    def _once(self, path: str, behaviour: Behaviour, reads: bool) -> Behaviour:
        async def answer(requests: Any, context: Context) -> Any:
            call = await self._begin(path, context)
            try:
                found = await behaviour(await self._read(call, context) if reads else requests, context)
                if self._held is not None:
                    await asyncio.shield(self._held)  # the call may be cancelled, the others' future not
                call.holds = _size(found)
                return found
            except asyncio.CancelledError:
                await self._give_up(call, context)
                raise
            finally:
                call.answering, call.since = True, time.monotonic()
                self.unread[call] = None

        return answer

    def _streaming(self, path: str, behaviour: Behaviour) -> Behaviour:
        async def answer(requests: Any, context: Context) -> Any:
            call = await self._begin(path, context, streams=True)
            try:
                return await behaviour(requests, context)
            except asyncio.CancelledError:
                await self._give_up(call, context)
                raise

        return answer

    def _generating(self, path: str, behaviour: Behaviour, reads: bool) -> Behaviour:
        """Answers are written here: a generator would not learn that its call is cancelled while grpcio writes one."""

        async def answer(requests: Any, context: Context) -> None:
            call = await self._begin(path, context, streams=True)
            try:
                asked = await self._read(call, context) if reads else requests
                async with contextlib.aclosing(behaviour(asked, context)) as found:
                    async for part in found:
                        await write(context, part)
            except asyncio.CancelledError:
                await self._give_up(call, context)
                raise

        return answer

    async def _begin(self, path: str, context: Context, *, streams: bool = False) -> OpenCall:
        task = asyncio.current_task()
        call = OpenCall(path, context.peer(), task)
        _CURRENT.set(call)
        self._open.add(call)
        self._some.set()
        call.answering = streams
        if task is not None:  # grpcio's own, which ends when the answer is written; its context's callbacks cost more
            task.add_done_callback(partial(self._end, call, context))
        if self.refusing:
            self.refused += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)
        if streams:
            # grpcio would send it with the first answer and, where that write is cancelled, once more with the status: its core
            # refuses that, so that nothing would be sent.
            await context.send_initial_metadata(())
            self.streams[call] = None
        return call

    async def _read(self, call: OpenCall, context: Context) -> Any:
        """The one request of a call."""
        self.receiving[call] = None
        try:
            request = await context.read()
        finally:
            del self.receiving[call]
        if request is grpc.aio.EOF:
            await context.abort(
                grpc.StatusCode.INTERNAL, "the call has no request: its client has ended its side without one"
            )
        return request

    async def _give_up(self, call: OpenCall, context: Context) -> None:
        """Tells the client why its call ends, where it does not end because the client has gone."""
        if call.evicted and call.task is not None:
            call.task.uncancel()
            await context.abort(grpc.StatusCode.UNAVAILABLE, WAITED)

    def _end(self, call: OpenCall, context: Context, task: asyncio.Task[Any]) -> None:
        self._open.discard(call)
        if not self._open:
            self._some.clear()
        self.unread.pop(call, None)
        self.streams.pop(call, None)
        if access_line.is_written():
            access_line.write(context, call.path, call.peer, call.began, call.request_id)

    # -- what others have happen to them -----------------------------------------------------------------------------------

    def evict(self, calls: Iterable[OpenCall]) -> None:
        """Ends calls that keep the server waiting, as UNAVAILABLE where that can still be told."""
        for call in calls:
            if call.task is not None and not call.evicted:
                call.evicted = True
                call.task.cancel()

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
