"""`Clock`: time that moves when a test says so."""

from __future__ import annotations


class Clock:
    """Called, it tells the seconds, like `time.monotonic`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time does not run backwards, got {seconds} s")
        self.now += seconds
