"""How a gRPC front end ends: clients are sent away while their calls are answered, and only then does grpcio shut down.

1. new connections are refused
2. each connection is told GOAWAY when that can be done (`connections`); its calls go on, also those that come before
   the client has read it, and the client closes it
3. where clients could not be told, those of TLS, new calls end as UNAVAILABLE, which clients may repeat, for a moment
4. grpcio shuts down: calls that are open have until the deadline, what it reads from now on it ends as CANCELLED
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import grpc

from .calls import Draining
from .connections import established, stop_listening, tell
from .open_calls import OpenCalls, Peer

#: Seconds between two looks at all connections, at least; and how many times as long as a look takes.
_LOOK_S, _LOOKS = 0.005, 4
#: How long connections that wait to be accepted may take to be.
_ACCEPT_S = 0.2
#: Answers are held back for so long, in each period, while a client is still to be told: a busy connection is never without an
#: answer that is being written otherwise.
_HOLD_S, _PERIOD_S = 0.25, 1.5
#: A client that has no call open and does not close its connection is not waited for longer than this.
LEAVE_S = 1.0
#: Before the shutdown new calls are refused until none came for so long, and for at most so long.
QUIET_S, REFUSE_S = 0.05, 0.5


@dataclass(frozen=True)
class Bound:
    """A gRPC server, the port that it listens on, and whether it speaks TLS there."""

    server: grpc.aio.Server
    port: int
    tls: bool


class Drain:
    """The end of all servers of a front end. `streams`: those that are open; they are told to end."""

    def __init__(self, bound: Sequence[Bound], calls: OpenCalls, streams: Collection[Draining] = ()) -> None:
        self._bound, self._calls, self._streams = bound, calls, streams
        self._ports = {at.port for at in bound}
        self._plain = {at.port for at in bound if not at.tls}
        self._told: set[Peer] = set()
        self._began = self._moved = 0.0

    async def run(self, seconds: float) -> None:
        """Returns when the servers have stopped, at the latest a moment after `seconds`."""
        deadline = time.monotonic() + seconds
        await _until(lambda: stop_listening(self._ports), min(deadline, time.monotonic() + _ACCEPT_S))
        self._began = self._moved = time.monotonic()
        try:
            await _until(self._have_left, deadline)
        finally:
            self._calls.hold(False)
        if any(peer not in self._told for peer, _ in established(self._ports)):
            await self._calls.refuse(QUIET_S, max(0.0, min(REFUSE_S, deadline - time.monotonic())))
        grace = max(0.0, deadline - time.monotonic())
        if not self._calls.peers()[0]:
            grace = min(grace, LEAVE_S)  # for clients that do not close their connections either when grpcio asks for it
        await asyncio.gather(*(at.server.stop(grace) for at in self._bound))

    def _have_left(self) -> bool:
        """Tells those clients that can be told now; whether none is left that is to be waited for."""
        for stream in list(self._streams):
            stream.drain()
        busy, answering = self._calls.peers()
        now, untold = time.monotonic(), 0
        here = set()
        for peer, sock in established(self._plain):
            here.add(peer)
            if peer in self._told:
                continue
            if peer not in answering and tell(sock):
                self._told.add(peer)
                self._moved = now
            else:
                untold += 1
        if here & busy:
            self._moved = now
        self._calls.hold(bool(untold) and (now - self._began) % _PERIOD_S < _HOLD_S)
        return not here or now - self._moved > LEAVE_S


async def _until(done: Callable[[], bool], deadline: float) -> None:
    while (began := time.monotonic()) < deadline:
        if done():
            return
        await asyncio.sleep(max(_LOOK_S, _LOOKS * (time.monotonic() - began)))
