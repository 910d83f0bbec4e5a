"""`SharedThreads`: the threads that all pools of workers of one process share, however many models it serves.

    loop      waits for workers' sockets, where no reactor does; what it calls must not block
    alarms    wakes supervisors when something is due; what it calls must not block
    starter   starts processes, one after the other, which may take its time: a thread of its own also because the kernel ends
              a worker with the thread that started it
    helpers   everything else that may block: a process' end, the answers of a load, long frames, callbacks; each while it lasts

They are there while there is a pool that has had workers.
"""

from __future__ import annotations

import threading

from ..process import threads
from ..process.alarms import Alarms
from ..process.helpers import Helpers
from .reading_loop import ReadingLoop

#: More than a process ever needs, unless workers stop in the middle of a frame: each of those holds a helper.
MOST_HELPERS = 32
#: Seconds after which a helper that has nothing to do ends.
HELPER_IDLE_S = 1.0


class SharedThreads:
    """Any thread may use all of them between `acquire` and `release`."""

    def __init__(self) -> None:
        self.loop = ReadingLoop("jitney-workers-read")
        self.alarms = Alarms("jitney-workers-alarms")
        self.starter = Helpers("jitney-workers-start", 1)
        self.helpers = Helpers("jitney-workers-help", MOST_HELPERS, HELPER_IDLE_S)
        self._lock = threading.Lock()
        self._users = 0

    def acquire(self, purpose: str) -> None:
        """A pool has workers from now on. TooFewThreads where the system has no thread left."""
        with self._lock:
            if not self._users:
                self._open(purpose)
            self._users += 1

    def release(self) -> None:
        """It has none any more; with the last one the threads end. Not to be called by one of them."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._close()

    def _open(self, purpose: str) -> None:
        try:
            with threads.needed(purpose):
                self.loop.open()
                self.alarms.open()
                self.starter.open()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self.alarms.close()
        self.starter.close()
        self.loop.close()
        self.helpers.close()
