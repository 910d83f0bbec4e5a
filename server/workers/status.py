"""`WorkerStatus`: what an operator sees of one worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil

from .roster import Worker, WorkerState
from .worker_process import WorkerProcess


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """`pid` 0 while there is no process; `started` in seconds since the epoch, of the latest process, 0.0 where there was
    none yet; `memory_bytes` is its resident set, divided by the number of workers that share it.

    `id` and `name` stay when the process is replaced; `restarts` counts that. `error` is the reason of the last ending,
    empty once a process has loaded the model again. `load_seconds` is how long the present one took, 0.0 until it has.
    """

    id: int
    name: str
    pid: int
    state: WorkerState
    started: float
    memory_bytes: int
    gpu: int | None
    restarts: int
    error: str
    load_seconds: float = 0.0


def status(worker: Worker[WorkerProcess, Any]) -> WorkerStatus:
    child = worker.child
    pid, load_seconds = (child.pid, child.load_seconds) if child is not None else (0, 0.0)
    instance = worker.instance
    memory = _resident(pid) // child.sharers if child is not None else 0
    return WorkerStatus(
        worker.id,
        instance.name,
        pid,
        worker.state,
        worker.began,
        memory,
        instance.gpu,
        worker.restarts,
        worker.error,
        load_seconds,
    )


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it ended a moment ago
        return 0
