"""`Admission`: how many requests may wait for a model at once in one listener.

A waitress thread waits with each request. What may wait is kept below the number of threads, so that some thread is always
left to say at once that the server is full, or healthy.
"""

from __future__ import annotations

import threading

import falcon

from ..errors import QueueFull
from .wsgi import at_end


class Admission:
    """A number of places. `hold(req)` takes one until the request's answer is complete."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return self._waiting

    def hold(self, req: falcon.Request) -> None:
        """Takes a place, given back when the answer is out, also a streamed one; raises QueueFull where none is free.

        Two dialects may share in one request: it takes one place.
        """
        if getattr(req.context, "admitted", False):
            return
        self.enter()
        req.context.admitted = True
        at_end(req, self.leave)

    def enter(self) -> None:
        with self._lock:
            if self._waiting >= self.limit:
                raise QueueFull(f"the server answers {self.limit} requests already, which is all it may hold")
            self._waiting += 1

    def leave(self) -> None:
        with self._lock:
            self._waiting -= 1
