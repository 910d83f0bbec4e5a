"""`Alarms`: one thread that calls back at given instants, for any number of askers."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Seconds after which a ring that failed is tried again.
AGAIN_S = 1.0

#: Looks at what is due and returns the instant of the next look, None = none is needed. It must not block.
Ring = Callable[[], "float | None"]


class Alarms:
    """Times in seconds of the monotonic clock. A ring that comes too early is harmless: it returns when it wants the next one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._at: dict[Ring, float] = {}
        self._sleeps_until = -math.inf
        self._closing = False
        self._thread: threading.Thread | None = None

    # ---- any thread

    def set(self, ring: Ring, at: float) -> None:
        """Calls `ring` at this instant, or before."""
        with self._changed:
            if at < self._at.get(ring, math.inf):
                self._at[ring] = at
            if at < self._sleeps_until:
                self._changed.notify()

    def forget(self, ring: Ring) -> None:
        """It is not called any more, unless it is being called at this moment."""
        with self._changed:
            self._at.pop(ring, None)

    def open(self) -> None:
        """Starts the thread. RuntimeError where the system has none left."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Ends the thread and waits for it, unless this is the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread, self._closing = None, False

    # ---- the thread

    def _run(self) -> None:
        while (due := self._wait()) is not None:
            for ring in due:
                try:
                    at = ring()
                except Exception:  # for want of memory, say: who is not rung any more would wait for ever
                    log.exception("%r failed, and is tried again", ring)
                    at = time.monotonic() + AGAIN_S
                if at is not None:
                    self.set(ring, at)

    def _wait(self) -> list[Ring] | None:
        """Sleeps until something is due; None at the end."""
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                due = [ring for ring, at in self._at.items() if at <= now]
                for ring in due:
                    del self._at[ring]
                if due:
                    return due
                soonest = min(self._at.values(), default=math.inf)
                self._sleeps_until = soonest
                self._changed.wait(None if soonest == math.inf else min(soonest - now, threading.TIMEOUT_MAX))
                self._sleeps_until = -math.inf
            return None
