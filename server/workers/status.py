"""What others see of a pool's workers: `WorkerStatus` what an operator is shown, `Seat` what a sequence is given to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil

from .worker_process import WorkerProcess
from .worker_state import Worker, WorkerState


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


class Seat(NamedTuple):
    """One life of one worker: a worker that was replaced is in another seat, also where its process is the same.

    sharers  how many workers live in the process
    """

    worker: int
    pid: int
    serial: int
    sharers: int


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


def seats(members: Iterable[Worker[WorkerProcess, Any]]) -> list[Seat]:
    """Of those that have loaded the model, busy or not."""
    loaded = [w for w in members if w.state in (WorkerState.READY, WorkerState.BUSY)]
    children = [(worker.id, worker.child) for worker in loaded if worker.child is not None]
    return [Seat(number, child.pid, child.serial, child.sharers) for number, child in children]
