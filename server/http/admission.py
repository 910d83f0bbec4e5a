"""`Admission`: how many requests may wait for a model at once in one listener.

A waitress thread waits with each request. What may wait is kept below the number of threads, so that some thread is always
left to say at once that the server is full, or healthy.
"""

from __future__ import annotations

import threading
from types import TracebackType

from ..errors import QueueFull


class Admission:
    """`with admission: …` around everything that waits for a model; raises QueueFull where `limit` requests do so already."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return self._waiting

    def __enter__(self) -> None:
        with self._lock:
            if self._waiting >= self.limit:
                raise QueueFull(f"the server answers {self.limit} requests already, which is all it may hold")
            self._waiting += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._waiting -= 1
