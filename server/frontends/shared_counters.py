"""`SharedCounters`: a page of numbers that the scheduler and all front ends share, so that asking costs a look at memory.

     0        8       16        24                  32 + 8 * N
    ┌────────┬───────┬─────────┬───────────────────┬─────────────────┐
    │ models │ keys  │ regions │ waiting × (1 + N) │ connections × N │   each a uint64, written by one process
    └────────┴───────┴─────────┴───────────────────┴─────────────────┘

The first three count changes: of which models serve, of the keys that requests need, of the registered shared memory. What a
front end knows of them holds as long as the number is the same. `waiting` is how many requests wait without a thread, in
the scheduler (0) and in front end i (i + 1); `connections` how many front end i had when it last looked, `GONE` where it is dead.
"""

from __future__ import annotations

from typing import Literal

from ..ipc.memory import Region

What = Literal["models", "keys", "regions"]
_PLACES: dict[What, int] = {"models": 0, "keys": 1, "regions": 2}
NBYTES = 8192
GONE = 2**32


class SharedCounters:
    """The page. Threads: any may read; a number has one writing thread at a time."""

    def __init__(self, region: Region, fronts: int) -> None:
        self.region, self.fronts = region, fronts
        self._numbers = region.view(0, NBYTES).cast("Q")
        self._waiting = self._numbers[3 : 4 + fronts]
        self._connections = self._numbers[4 + fronts : 4 + 2 * fronts]
        self._closed = False

    @classmethod
    def create(cls, fronts: int) -> SharedCounters:
        return cls(Region.create("jitney-counters", NBYTES), fronts)

    def epoch(self, what: What) -> int:
        """How often this has changed."""
        return self._numbers[_PLACES[what]]

    def changed(self, what: What) -> None:
        """To be called after the change, and before anybody is told of it; by one thread at a time."""
        if not self._closed:
            self._numbers[_PLACES[what]] += 1

    def waiting(self) -> int:
        """Requests that wait in all processes."""
        return sum(self._waiting)

    def set_waiting(self, process: int, count: int) -> None:
        if not self._closed:
            self._waiting[process] = count

    def has_more(self, front: int) -> bool:
        """Whether this front end has more connections than another."""
        return self._connections[front] > min(self._connections)

    def set_connections(self, front: int, count: int) -> None:
        if not self._closed:
            self._connections[front] = count

    def close(self) -> None:
        """Gives the memory back; what changes from now on is not counted."""
        self._closed = True
        self._waiting.release()
        self._connections.release()
        self._numbers.release()
        self.region.close()
