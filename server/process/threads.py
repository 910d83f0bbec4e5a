"""Starting threads where the system may have none left: a sentence in place of Python's "can't start new thread"."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import TooFewThreads

#: What Python says where the system refuses a thread; its RuntimeError says other things with other words.
_REFUSED = "can't start new thread"
#: Read by OpenBLAS, which comes with numpy, when it is loaded.
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
#: Where a container's limit on processes and threads stands (cgroup v2, v1), as seen from inside.
_PIDS_MAX = (Path("/sys/fs/cgroup/pids.max"), Path("/sys/fs/cgroup/pids/pids.max"))


@contextlib.contextmanager
def needed(purpose: str) -> Iterator[None]:
    """Around whatever starts threads: TooFewThreads says for what there was none, and which limits count."""
    try:
        yield
    except RuntimeError as error:
        if _REFUSED not in str(error):
            raise
        raise TooFewThreads(
            f"the system has no thread left for {purpose}: this process has {threading.active_count()}, {_limits()}. "
            "Raise the limit on processes and threads (docker --pids-limit, systemd TasksMax, ulimit -u), or serve fewer models"
        ) from error


def start(thread: threading.Thread, purpose: str) -> None:
    """`thread.start()`; TooFewThreads where the system has none left."""
    with needed(purpose):
        thread.start()


@contextlib.contextmanager
def one_for_blas() -> Iterator[None]:
    """Around the first import of numpy in a process that calculates nothing: OpenBLAS would start a thread for each core.

    Only there: workers inherit the environment, and their models may calculate.
    """
    if BLAS_THREADS in os.environ:
        yield
        return
    os.environ[BLAS_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[BLAS_THREADS]


def _limits() -> str:
    """The limits that count threads, as far as they can be read."""
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    found = [] if soft == resource.RLIM_INFINITY else [f"its user may have {soft} (ulimit -u)"]
    for path in _PIDS_MAX:
        with contextlib.suppress(OSError):
            text = path.read_text().strip()
            found += [f"its control group {text} ({path})"] if text != "max" else []
    return ", ".join(found) or "and no limit on them can be read here"
