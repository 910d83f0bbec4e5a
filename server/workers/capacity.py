"""How many more workers this machine can hold, so that a slip of the pen does not fill it with processes.

Every figure is a lower bound of what a worker takes: a bare interpreter with numpy. What the model itself takes is known
once a worker has loaded it, and counted from then on (`shortage`).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from ...core.errors import InvalidConfig
from ..process.cores import cgroups, usable_cores

#: Bytes of a worker that has loaded nothing (measured: 40 MB each with 278 of them).
WORKER_BYTES = 40 << 20
#: Threads of a worker at the least; those that the server has for workers are there anyway.
WORKER_TASKS = 2
#: Descriptors that the server holds for a worker: its socket, its stdout and its stderr.
WORKER_FILES = 3
#: Workers of one model for each core. Processes that mostly wait may be many, but loading each of them is work.
WORKERS_PER_CORE = 100

_GIB = 1 << 30


class Bound(NamedTuple):
    """At most so many workers more, and what bounds them."""

    workers: int
    reason: str


def check(model: str, wanted: int, present: int, root: Path = Path("/")) -> None:
    """InvalidConfig where a model that has `present` workers wants more than the machine can hold.

    One for each core is never refused: whether those fit shows when they load.
    """
    cores = usable_cores(root)
    if wanted <= max(present, cores):
        return
    by_cores = Bound(cores * WORKERS_PER_CORE - present, f"{WORKERS_PER_CORE} for each of {cores} cores")
    room, reason = min([by_cores, *_bounds(root)])
    if wanted - present > room:
        most = max(cores, present + room)
        raise InvalidConfig(
            f"model '{model}' is to have {wanted} workers, but this machine has room for at most {most} ({reason}): "
            "lower the count of its instance_group, or its initial_workers or min_worker"
        )


def shortage(pid: int | None, loading: int, root: Path = Path("/")) -> str:
    """Why there is no memory for one more worker, "" where there is.

    `pid` is a worker that has loaded the same model, if any has; `loading` others may still grow to its size.
    """
    size = WORKER_BYTES
    if pid is not None:
        try:
            size = max(size, int(psutil.Process(pid).memory_full_info().uss))
        except psutil.Error:  # it ended a moment ago
            pass
    available = available_memory(root)
    if available >= size * (loading + 1):
        return ""
    return f"{available / _GIB:.2f} GiB of memory are available, and each worker of this model takes {size / _GIB:.2f} GiB"


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that processes can still get: the machine's, or its cgroup's where that is less. Swap does not count."""
    free = [bytes_ for folder in cgroups("memory", root) if (bytes_ := _cgroup_memory(folder)) is not None]
    return max(0, min([psutil.virtual_memory().available, *free]))


def _bounds(root: Path) -> Iterator[Bound]:
    memory = available_memory(root)
    each = WORKER_BYTES >> 20
    yield Bound(
        memory // WORKER_BYTES, f"{memory / _GIB:.1f} GiB of memory are available, a worker takes at least {each} MiB"
    )
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY:
        files = max(0, limit - len(list(Path("/proc/self/fd").iterdir())))
        yield Bound(files // WORKER_FILES, f"{files} open files are left, ulimit -n")
    for tasks, what in _tasks(root):
        yield Bound(max(0, tasks) // WORKER_TASKS, f"{max(0, tasks)} processes and threads are left, {what}")


def _tasks(root: Path) -> Iterator[tuple[int, str]]:
    """How many processes and threads may still be made, by each limit that there is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit != resource.RLIM_INFINITY and os.geteuid() != 0:
        yield limit, "ulimit -u"  # without those that the user has, which would be long to count
    for folder in cgroups("pids", root):
        most, present = _number(folder / "pids.max"), _number(folder / "pids.current")
        if most is not None and present is not None:
            yield most - present, "the cgroup's pids.max"
    most = _number(root / "proc/sys/kernel/pid_max")
    if most is not None:
        yield most - _all_tasks(root), "kernel.pid_max"


def _all_tasks(root: Path) -> int:
    try:
        return int((root / "proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def _cgroup_memory(folder: Path) -> int | None:
    """What a cgroup (version 2, then 1) may still take; file pages that it can give back count as free. None = no limit."""
    for limit_file, used_file in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None and used is not None:
            return limit - max(0, used - _inactive_files(folder))
    return None


def _inactive_files(folder: Path) -> int:
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
