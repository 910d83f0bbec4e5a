"""Who works for a model: the states of its workers and what is to be done next. Pure: time is an argument.

    STARTING ──▶ READY ◀──▶ BUSY          any of them ──(process ends)──▶ BACKOFF ──▶ STARTING
        READY, BUSY ──(scaled down)──▶ STOPPING ──▶ gone                    └──(too often)──▶ FAILED

A worker keeps its id, name and device when its process is replaced. Callers hold the supervisor's lock.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...core.request import Instance
from ..process.backoff import Backoff

#: Seconds that a worker may take to unload and end once it is told to stop.
STOP_GRACE_S = 30.0

#: TorchServe's worker ids begin at 9000 (initial_worker_port), and none is used twice within a run.
_IDS = itertools.count(9000)


def number_from(first: int) -> None:
    """Lets the ids of this process's workers begin here; before any worker is hired."""
    global _IDS
    _IDS = itertools.count(first)


C = TypeVar("C")  # the process
B = TypeVar("B")  # the batch


class WorkerState(enum.StrEnum):
    STARTING = "STARTING"
    READY = "READY"
    BUSY = "BUSY"
    STOPPING = "STOPPING"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"


class Alarm(enum.Enum):
    """What it means that a worker's time has come."""

    START = "start its process"
    LOADING = "it takes too long to load"
    ANSWERING = "it takes too long to answer"
    STOPPING = "it takes too long to end"


@dataclass(eq=False, slots=True)
class Worker(Generic[C, B]):
    """`alarm`: the instant of the next `Alarm`, None = none. `error`: the last ending's reason, "" after a good start.
    `began`: when its latest process was started, in seconds since the epoch; 0.0 where there was none yet.
    """

    id: int
    instance: Instance
    backoff: Backoff
    state: WorkerState = WorkerState.STARTING
    child: C | None = None
    batch: B | None = None
    alarm: float | None = None
    restarts: int = 0
    error: str = ""
    load_failed: bool = False
    leaving: bool = False
    began: float = 0.0

    def barren(self) -> bool:
        """Whether nothing is to be hoped for: it was given up, or could not load the model when it last tried."""
        return self.load_failed or self.state is WorkerState.FAILED


class Roster(Generic[C, B]):
    """The workers of one model. Times in seconds of a monotonic clock; a limit of 0 means none.

    `at_once`: so many processes load the model at the same time, the others start after them; 0 = all.
    """

    def __init__(self, *, startup_s: float, response_s: float, give_up_after_s: float, at_once: int = 0) -> None:
        self._startup_s, self._response_s, self._give_up_after_s = startup_s, response_s, give_up_after_s
        self._at_once = at_once
        self.members: list[Worker[C, B]] = []
        self.leaving: list[Worker[C, B]] = []
        self.idle: list[Worker[C, B]] = []  # a stack: the one that worked last has the warmest caches
        self.retry = False
        self.ever_loaded = False

    # ---- numbers

    @property
    def target(self) -> int:
        return len(self.members)

    def ready(self) -> int:
        """Members that are loaded, with or without a batch."""
        return sum(worker.state in (WorkerState.READY, WorkerState.BUSY) for worker in self.members)

    def barren(self) -> bool:
        """Whether no member serves, nor is loading with an open end: there is none, or none could load the model lately."""
        for worker in self.members:  # noqa: SIM110 - for every request: a generator costs three times as much
            if not worker.barren():
                return False
        return True

    def no_workers_left(self) -> bool:
        """Whether a batch that waits now is not to be served as far as anybody knows."""
        return self.barren() and not any(w.batch for w in self.leaving)

    def loading(self) -> int:
        """Members whose processes are loading the model."""
        return sum(worker.child is not None and worker.state is WorkerState.STARTING for worker in self.members)

    def refused(self) -> Worker[C, B] | None:
        """A member that could not be loaded and is not loading again right now."""
        over = (WorkerState.BACKOFF, WorkerState.FAILED)
        return next((w for w in self.members if w.state is WorkerState.FAILED or (w.load_failed and w.state in over)), None)

    def processes(self) -> list[C]:
        return [worker.child for worker in (*self.members, *self.leaving) if worker.child is not None]

    # ---- size

    def resize(self, count: int, now: float, place: Callable[[int], Instance]) -> list[Worker[C, B]]:
        """Adds members, or lets the last ones go; gives FAILED ones another chance.

        Returns those who leave and have no batch to finish: they are to be stopped by the caller.
        """
        kept = self.members[:count]
        added: list[Worker[C, B]] = [self._hire(place(n), now) for n in range(len(self.members), count)]
        dismissed = self.members[count:]
        for worker in kept:
            if worker.state is WorkerState.FAILED:
                worker.state, worker.alarm, worker.load_failed = WorkerState.STARTING, now, False
                worker.backoff = Backoff(self._give_up_after_s)
        self.members = kept + added
        return [worker for worker in dismissed if self._dismiss(worker, now)]

    def _hire(self, instance: Instance, now: float) -> Worker[C, B]:
        return Worker(next(_IDS), instance, Backoff(self._give_up_after_s), alarm=now)

    def _dismiss(self, worker: Worker[C, B], now: float) -> bool:
        if worker in self.idle:
            self.idle.remove(worker)
        worker.leaving, worker.state = True, WorkerState.STOPPING
        if worker.child is None:
            worker.alarm = None
            return False
        self.leaving.append(worker)
        if worker.batch is None:
            worker.alarm = now + STOP_GRACE_S
        return worker.batch is None

    # ---- work

    def take(self, batch: B, now: float) -> Worker[C, B] | None:
        """Gives the batch to an idle worker; None if there is none."""
        if not self.idle:
            return None
        worker = self.idle.pop()
        self.assign(worker, batch, now)
        return worker

    def take_named(self, worker_id: int, batch: B, now: float) -> Worker[C, B] | None:
        """Gives the batch to this worker; None if it is not idle."""
        worker = next((worker for worker in self.idle if worker.id == worker_id), None)
        if worker is not None:
            self.idle.remove(worker)
            self.assign(worker, batch, now)
        return worker

    def assign(self, worker: Worker[C, B], batch: B, now: float) -> None:
        worker.batch = batch
        worker.state = WorkerState.STOPPING if worker.leaving else WorkerState.BUSY
        self.progress(worker, now)

    def progress(self, worker: Worker[C, B], now: float) -> None:
        """A sign of life: the response timeout starts again."""
        worker.alarm = now + self._response_s if self._response_s > 0 else None

    def release(self, worker: Worker[C, B], now: float) -> None:
        """The batch is over: the worker is idle, or to be stopped if it is `leaving`."""
        worker.batch, worker.alarm = None, None
        if worker.leaving:
            worker.alarm = now + STOP_GRACE_S
        else:
            worker.state = WorkerState.READY
            self.idle.append(worker)

    # ---- life

    def started(self, worker: Worker[C, B], child: C, now: float) -> bool:
        """The worker has a process; false if it was dismissed meanwhile: then the process is to be ended."""
        worker.child = child
        if worker.leaving:
            self.leaving.append(worker)
            return False
        worker.state = WorkerState.STARTING
        worker.alarm = now + self._startup_s if self._startup_s > 0 else None
        return True

    def loaded(self, worker: Worker[C, B], now: float) -> None:
        """The process has the model; the worker is idle."""
        self.ever_loaded = True
        worker.backoff.loaded(now)
        worker.error, worker.load_failed = "", False
        if not worker.leaving:
            self.release(worker, now)

    def gone(self, worker: Worker[C, B], now: float, reason: str, load_failed: bool) -> B | None:
        """The process ended. Returns the batch that it held; the worker waits to start again, or has failed, or is gone."""
        batch, worker.batch, worker.child, worker.alarm = worker.batch, None, None, None
        if worker in self.idle:
            self.idle.remove(worker)
        if worker.leaving:
            if worker in self.leaving:
                self.leaving.remove(worker)
            return batch
        worker.error, worker.load_failed = reason, load_failed
        delay = worker.backoff.failed(now)
        if delay is None or (load_failed and not self.retry and not self.ever_loaded):
            worker.state = WorkerState.FAILED
        else:
            worker.state, worker.alarm = WorkerState.BACKOFF, now + delay
            worker.restarts += 1
        return batch

    # ---- time

    def wake_at(self) -> float | None:
        """The instant of the next alarm that may ring."""
        return min((alarm for alarm, _ in self._alarms()), default=None)

    def due(self, now: float) -> list[tuple[Worker[C, B], Alarm]]:
        """The alarms that went off by now, each reported once."""
        rung = [worker for alarm, worker in self._alarms() if alarm <= now]
        for worker in rung:
            worker.alarm = None
        return [(worker, self._meaning(worker)) for worker in rung]

    def _alarms(self) -> list[tuple[float, Worker[C, B]]]:
        """Those that may ring; a worker that has to wait until others have loaded has none."""
        found = [(w.alarm, w) for w in (*self.members, *self.leaving) if w.alarm is not None]
        if not self._at_once:
            return found
        starts = sorted((pair for pair in found if pair[1].child is None), key=lambda pair: pair[0])
        waiting = {id(worker) for _, worker in starts[max(0, self._at_once - self.loading()) :]}
        return [pair for pair in found if id(pair[1]) not in waiting]

    def _meaning(self, worker: Worker[C, B]) -> Alarm:
        if worker.child is None:
            return Alarm.START
        if worker.batch is not None:
            return Alarm.ANSWERING
        return Alarm.STOPPING if worker.leaving else Alarm.LOADING
