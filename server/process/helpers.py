"""`Helpers`: a few threads for work that may block, so that a loop or a timer need not do it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Work = Callable[[], None]


class Helpers:
    """Runs what is submitted on at most `most` threads; each begins when it is needed and ends after `idle_s` without work.

    Work begins in the order of its submission. Where the system has no thread left, and none of these is there, the thread that
    submits does the work itself.
    """

    def __init__(self, name: str, most: int, idle_s: float = math.inf) -> None:
        self._name, self._most, self._idle_s = name, most, idle_s
        self._changed = threading.Condition()
        self._queue: deque[Work] = deque()
        self._threads: set[threading.Thread] = set()
        self._free = 0  # threads that wait for work, and for which there is none yet
        self._closing = False

    # ---- any thread

    def submit(self, work: Work) -> None:
        """Begins it as soon as a thread is free; returns at once."""
        with self._changed:
            self._queue.append(work)
            if len(self._queue) <= self._free:
                self._changed.notify()
                return
            if len(self._threads) >= self._most or self._begin():
                return
            if self._threads:  # one of these will come to it
                return
            self._queue.remove(work)
        _run(work)

    def open(self) -> None:
        """Starts a thread, so that it is known that there is one. RuntimeError where the system has none left."""
        with self._changed:
            if not self._threads and not self._begin():
                raise RuntimeError("can't start new thread")

    def close(self) -> None:
        """Waits until everything is done and all threads have ended. It may be used again after that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            thread.join()
        self._closing = False

    def _begin(self) -> bool:
        """With the lock held; false where the system has no thread left."""
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            return False
        return True

    # ---- the threads

    def _serve(self) -> None:
        while (work := self._next()) is not None:
            _run(work)
            del work  # an idle thread must not keep what it refers to

    def _next(self) -> Work | None:
        """The next piece of work; None where this thread is to end."""
        with self._changed:
            until = time.monotonic() + self._idle_s
            self._free += 1
            while not self._queue and not self._closing and (left := until - time.monotonic()) > 0:
                self._changed.wait(None if left == math.inf else left)
            self._free -= 1
            if self._queue:
                return self._queue.popleft()
            self._threads.discard(threading.current_thread())
            return None


def _run(work: Work) -> None:
    try:
        work()
    except Exception:
        log.exception("%r failed", work)
