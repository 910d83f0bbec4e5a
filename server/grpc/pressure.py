"""What clients have grpcio hold: parts of requests that are on their way, answers that are not read. It is measured, and bounded.

grpcio reads a request whole before anybody hears of it, and keeps an answer until its client has taken it; `core.holding` sees
neither, and grpcio has no bound for all of them together that Python could set. So a front end looks several times a second at
what the C library has given out since the start. Where that is more than twice what the process may hold (each of them is there
twice for a moment, grpcio's and Python's), it ends calls whose clients keep it waiting, the oldest first: those that are still
sending, and those that do not read their answer; streams only where there are no others. grpcio cannot be told to let go of an
answer, so there the connection is cut.

The same where calls that are still to send their request take the places of the others.

Calls that no handler has yet hold memory too, as much as HTTP/2's window lets a client send. They get a handler when others end,
and end in their turn.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from .connections import cut
from .open_calls import OpenCall, OpenCalls, peers_of

log = logging.getLogger(__name__)

#: Seconds between two looks, and between two lines of the log.
LOOK_S, TELL_S = 0.1, 60.0
#: Where half of all calls are still to send their request, those go that have taken so many seconds for it.
SLOW_S = 10.0
#: An answer that grpcio has had for longer is one that its client does not read.
UNREAD_S = 1.0

_NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2` (malloc.h): pieces in use, and mappings of their own."""

    _fields_ = [(name, ctypes.c_size_t) for name in _NAMES]


def measure() -> Callable[[], int]:
    """What tells how many bytes this process has in use; where the C library does not (musl), memory of its own, freed or not."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = _Mallinfo

        def in_use() -> int:
            found = library.mallinfo2()
            return int(found.uordblks + found.hblkhd)

        return in_use
    page = os.sysconf("SC_PAGESIZE")

    def private() -> int:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_bytes().split())
        return (resident - shared) * page

    return private


class Pressure:
    """Keeps one front end within bounds. `ports`: those of its servers; `limit`: bytes; `places`: calls under way at most."""

    def __init__(
        self, calls: OpenCalls, ports: Collection[int], limit: int, places: int, in_use: Callable[[], int] | None = None
    ) -> None:
        self._calls, self._ports, self._limit, self._places = calls, ports, limit, places
        self._in_use = in_use or measure()
        self._at_first = self._in_use()
        self._told, self._ended = -TELL_S, 0

    async def watch(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            await self._calls.wait_for_one()
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Ends calls where that has to be."""
        receiving = list(self._calls.receiving)
        if len(receiving) > self._places // 2:
            why = f"{len(receiving)} of {self._places} calls wait for their request"
            self._end([call for call in receiving if _waits(call) > SLOW_S], why)
        held = self._in_use() - self._at_first
        if held > self._limit:
            self._relieve(f"clients have gRPC hold {held} bytes of at most {self._limit}")

    def _relieve(self, why: str) -> None:
        calls = self._calls
        unread = [call for call in calls.unread if _waits(call) > UNREAD_S]
        waiting = sorted((*calls.receiving, *unread), key=lambda call: call.since) or list(calls.streams)
        self._end([call for call in waiting if not call.evicted][: -(-len(waiting) // 2)], why)

    def _end(self, calls: Sequence[OpenCall], why: str) -> None:
        unread = peers_of(call.peer for call in calls if call in self._calls.unread)
        self._calls.evict(calls)
        if unread:
            cut(self._ports, unread)
        self._ended += len(calls)
        if self._ended and time.monotonic() - self._told >= TELL_S:
            log.warning("%s: %d calls that kept the server waiting were ended", why, self._ended)
            self._told, self._ended = time.monotonic(), 0


def _waits(call: OpenCall) -> float:
    return time.monotonic() - call.since
