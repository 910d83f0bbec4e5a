"""Which core the server's own threads share, where `affinity=auto` asks for that (Linux).

Python runs one thread at a time, whatever the number of cores. Two threads that take turns are quicker on one core than on two:
nothing has to be woken on the other core, and the caches stay warm. The threads that take turns for every request are those
that read and write: a listener's loop and the readers of workers' answers. Threads that decode images or wait, and workers, run
where there is room.
"""

from __future__ import annotations

import contextlib
import os

_core: int | None = None


def configure(mode: str, process: int = 0) -> None:
    """Decides for this process: "auto", or "none" for no core in particular. To be called before any thread starts.

    `process` tells the server's processes apart, 0 being the main one: each gets a core of its own while there are any.
    """
    global _core
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    _core = cores[process % len(cores)] if mode == "auto" and len(cores) > 1 else None


def share_core() -> None:
    """Moves the calling thread to the shared core, if there is one."""
    if _core is not None:
        with contextlib.suppress(OSError):  # the core was taken from this process meanwhile
            os.sched_setaffinity(0, {_core})
