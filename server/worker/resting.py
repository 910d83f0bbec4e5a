"""`Resting`: where a model's next answer waits while the server wants no more of them. Worker process only.

Only parts of streams wait, final answers never: `workers.rests` says when, and why nobody else waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Resting:
    """Any thread of the worker. `on_wait` is called when an answer has to wait: the server's messages are to be read."""

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self._on_wait = on_wait
        self._changed = threading.Condition()
        self._rests = self._abandoned = False
        self._waiting = 0

    def note(self, rests: bool) -> None:
        """What the server wants."""
        with self._changed:
            self._rests = rests
            self._changed.notify_all()

    def abandon(self) -> None:
        """The server has left: nobody is to wait any more."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def waiting(self) -> bool:
        """Whether an answer waits."""
        return self._waiting > 0

    def wait(self) -> int:
        """Waits while the server wants no answers; returns for how many nanoseconds."""
        if not self._rests:
            return 0
        began = time.perf_counter_ns()
        with self._changed:
            self._waiting += 1
        try:
            self._on_wait()
            with self._changed:
                self._changed.wait_for(lambda: not self._rests or self._abandoned)
        finally:
            with self._changed:
                self._waiting -= 1
        return time.perf_counter_ns() - began
