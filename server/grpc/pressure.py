"""What clients have grpcio hold: parts of requests that are on their way, answers that are not read. It is measured, and bounded.

grpcio reads a request whole before anybody hears of it, and keeps an answer until its client has taken it; `core.holding` sees
neither, and grpcio has no bound for all of them together that Python could set. So a front end looks ten times a second, and more
often where the bound is near, at what the C library has given out since the start. Where that is more than twice what the process
may hold (each of them is there twice for a moment, grpcio's and Python's), it ends calls whose clients keep it waiting: those
that are still sending, and those that do not read an answer, of a stream too; streams that wait for nothing only where there are
no others. Those that hold most go first, of equal ones the oldest, until half of what all of them hold is gone. What a call holds
that is still sending is not known: what no other call holds is theirs in equal parts. grpcio cannot be told to let go of an
answer, so the connection is cut: of a unary call at once, of a stream where its end does not reach the client.

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
from math import inf
from pathlib import Path

from .connections import cut
from .open_calls import OpenCall, OpenCalls, peers_of

log = logging.getLogger(__name__)

#: Seconds between two looks, at most and at least, and between two lines of the log.
LOOK_S, SOON_S, TELL_S = 0.1, 0.005, 60.0
#: Bytes that clients of one machine, or of a quick network, send in a second.
QUICK = 1 << 30
#: Where calls were ended, what they held is given so many seconds to go, unless it grows by this part of what may be held.
EFFECT_S, GROWTH = 0.1, 0.25
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
        self._held = 0  # at the last look
        self._relieved, self._relieved_at = -inf, 0  # likewise when calls were last ended

    async def watch(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            await self._calls.wait_for_one()
            await asyncio.sleep(self._pause())
            self.look()

    def _pause(self) -> float:
        """Seconds until the next look: no more than what is left of the bound needs to be filled."""
        return min(max((self._limit - self._held) / QUICK, SOON_S), LOOK_S)

    def look(self) -> None:
        """Ends calls where that has to be."""
        receiving = list(self._calls.receiving)
        if len(receiving) > self._places // 2:
            why = f"{len(receiving)} of {self._places} calls wait for their request"
            self._end([call for call in receiving if _ago(call.since) > SLOW_S], why)
        held = self._in_use() - self._at_first
        self._held = held
        if held > self._limit and (_ago(self._relieved) > EFFECT_S or held > self._relieved_at + GROWTH * self._limit):
            self._relieve(held)

    def _relieve(self, held: int) -> None:
        calls = self._calls
        stuck = [call for call in calls.streams if call.evicted and not call.cut]
        if stuck:  # grpcio has an answer of theirs that nobody reads, and the end behind it
            self._relieved, self._relieved_at = time.monotonic(), held
            cut(self._ports, peers_of(call.peer for call in stuck))
            for call in stuck:
                call.cut = True
            return
        unread = [call for call in (*calls.unread, *calls.streams) if call.holds and _ago(call.since) > UNREAD_S]
        waiting = [call for call in (*calls.receiving, *unread) if not call.evicted]
        ended = self._largest(waiting, held) or list(calls.streams)[: -(-len(calls.streams) // 2)]
        if ended:
            self._relieved, self._relieved_at = time.monotonic(), held
        self._end(ended, f"clients have gRPC hold {held} bytes of at most {self._limit}")

    def _largest(self, waiting: Sequence[OpenCall], held: int) -> list[OpenCall]:
        """Of the calls that wait for their clients those that hold half of what all of them do."""
        calls = self._calls
        known = sum(call.holds for call in (*calls.unread, *calls.streams))
        each = max(held - known, 0) // max(len(calls.receiving), 1)
        holds = {call: each if call in calls.receiving else call.holds for call in waiting}
        found, left = list[OpenCall](), sum(holds.values()) / 2
        for call in sorted(waiting, key=lambda call: (-holds[call], call.since)):
            if left <= 0:
                break
            found.append(call)
            left -= holds[call]
        return found

    def _end(self, calls: Sequence[OpenCall], why: str) -> None:
        unread = peers_of(call.peer for call in calls if call in self._calls.unread)
        self._calls.evict(calls)
        if unread:
            cut(self._ports, unread)
        self._ended += len(calls)
        if self._ended and time.monotonic() - self._told >= TELL_S:
            log.warning("%s: %d calls that kept the server waiting were ended", why, self._ended)
            self._told, self._ended = time.monotonic(), 0


def _ago(instant: float) -> float:
    return time.monotonic() - instant
