"""`Admission`: how many requests may wait for their models at once.

Where a request waits in a thread, what may wait is kept below the number of threads, so that some thread is always left to say
at once that the server is full, or healthy. Where it waits without one (`plan`), it costs a connection and memory: these
are bounded too, far below what a listener can hold.
"""

from __future__ import annotations

import threading

import falcon

from ....core.errors import QueueFull
from ...ipc.coalesce import Coalescer
from ..wsgi import at_end


class Places:
    """A number of places, all free at first. `coalescer` is told of refusals."""

    def __init__(self, limit: int, coalescer: Coalescer | None = None) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit, self._coalescer = limit, coalescer or Coalescer()
        self.taken = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Takes a place; QueueFull where none is free."""
        with self._lock:
            if self.taken >= self.limit:
                self._coalescer.refused()
                raise QueueFull(f"the server answers {self.limit} requests already, which is all it may hold")
            self.taken += 1

    def leave(self) -> None:
        with self._lock:
            self.taken -= 1


class Admission:
    """`threads` are the places of requests that keep a thread while they wait or stream, `waiting` those of all others."""

    def __init__(self, threads: int, waiting: int, coalescer: Coalescer | None = None) -> None:
        self.threads, self.waiting = Places(threads, coalescer), Places(waiting, coalescer)

    @property
    def held(self) -> int:
        """Requests that have a place now."""
        return self.threads.taken + self.waiting.taken

    def hold(self, req: falcon.Request) -> None:
        """Takes a thread's place until the request's answer is complete. Raises QueueFull."""
        self.threads.enter()
        at_end(req, self.threads.leave)
