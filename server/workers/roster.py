"""The workers of one model: what each is to do next, and which of them takes a batch. Pure: time is an argument.

Callers hold the supervisor's lock. What one worker is and holds, `worker_state` has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import inf
from typing import Generic

from ...core.request import Instance
from ..process.backoff import Backoff
from .worker_state import Alarm, B, C, Held, Worker, WorkerState

#: Seconds that a worker may take to unload and end once it is told to stop.
STOP_GRACE_S = 30.0
#: Where an alarm is looked at so many seconds late, the server itself did not run: a process that was to do something by then
#: gets the time anew. It may have done it, which nobody has read yet, or did not run either.
OVERSLEPT_S = 1.0
#: Seconds after which a batch that was sent early is asked back where the one before it should have been over.
RECALL_S = 0.1

#: TorchServe's worker ids begin at 9000 (initial_worker_port), and none is used twice within a run.
_IDS = itertools.count(9000)


def number_from(first: int) -> None:
    """Lets the ids of this process's workers begin here; before any worker is hired."""
    global _IDS
    _IDS = itertools.count(first)


class Roster(Generic[C, B]):
    """The workers of one model. Times in seconds of a monotonic clock; a limit of 0 means none.

    `at_once`: so many processes load the model at the same time, the others start after them; 0 = all. `in_flight`: how
    many batches the worker of an instance may hold. `overlaps`: it takes the next one when `execute` has returned, though
    answers are still to come; else it is sent full ones ahead. `together`: each answer is a sign of life of all its open
    batches, and where one is late all are (continuous batching, whose rounds answer all). `lasts`: how long a worker will take
    for a batch, and the way to it and back (`Foresight`).
    """

    def __init__(
        self,
        *,
        startup_s: float,
        response_s: float,
        give_up_after_s: float,
        at_once: int = 0,
        in_flight: Callable[[Instance], int] = lambda instance: 1,
        overlaps: bool = False,
        together: bool = False,
        lasts: Callable[[B], tuple[float, float]] = lambda batch: (inf, 0.0),
    ) -> None:
        self._startup_s, self._response_s, self._give_up_after_s = startup_s, response_s, give_up_after_s
        self._at_once, self._in_flight, self._overlaps, self._together = at_once, in_flight, overlaps, together
        self._lasts = lasts
        self.members: list[Worker[C, B]] = []
        self.leaving: list[Worker[C, B]] = []
        self.idle: list[Worker[C, B]] = []  # takes any batch; a stack: the one that worked last has the warmest caches
        self.sends_ahead = False  # whether a busy worker may have more than the batch that it executes
        self.retry = False
        self.ever_loaded = False

    # ---- numbers

    @property
    def target(self) -> int:
        return len(self.members)

    def ready(self) -> int:
        """Members that are loaded, with or without a batch."""
        return sum(worker.state in (WorkerState.READY, WorkerState.BUSY) for worker in self.members)

    def healthy(self) -> int:
        """Members that were not given up."""
        return sum(worker.state is not WorkerState.FAILED for worker in self.members)

    def barren(self) -> bool:
        """Whether no member serves, nor is loading with an open end: there is none, or none could load the model lately."""
        for worker in self.members:  # noqa: SIM110 - for every request: a generator costs three times as much
            if not worker.barren():
                return False
        return True

    def no_workers_left(self) -> bool:
        """Whether a batch that waits now is not to be served as far as anybody knows."""
        return self.barren() and not any(w.unfinished for w in self.leaving)

    def loading(self) -> int:
        """Members whose processes are loading the model."""
        return sum(worker.child is not None and worker.state is WorkerState.STARTING for worker in self.members)

    def starting(self) -> int:
        """Members whose processes have been ordered, and are not there yet."""
        waiting = (WorkerState.STARTING, WorkerState.BACKOFF)
        return sum(w.child is None and w.alarm is None and w.state in waiting for w in self.members)

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
        self.sends_ahead = not self._overlaps and any(worker.in_flight > 1 for worker in self.members)
        return [worker for worker in dismissed if self._dismiss(worker, now)]

    def _hire(self, instance: Instance, now: float) -> Worker[C, B]:
        places = self._in_flight(instance)
        return Worker(next(_IDS), instance, Backoff(self._give_up_after_s), alarm=now, in_flight=places)

    def _dismiss(self, worker: Worker[C, B], now: float) -> bool:
        if worker in self.idle:
            self.idle.remove(worker)
        worker.leaving, worker.state = True, WorkerState.STOPPING
        if worker.child is None:
            worker.alarm = None
            return False
        self.leaving.append(worker)
        if not worker.unfinished:
            worker.alarm = now + STOP_GRACE_S
        return not worker.unfinished

    # ---- work

    def take(self, batch: B, now: float) -> Worker[C, B] | None:
        """Gives the batch to an idle worker; None if there is none."""
        if not self.idle:
            return None
        worker = self.idle.pop() if not self._overlaps else self._least_held()
        self.assign(worker, batch, now)
        return worker

    def _least_held(self) -> Worker[C, B]:
        """Of the idle workers the one with the fewest open batches, the latest of several."""
        worker = min(reversed(self.idle), key=lambda worker: worker.held)
        self.idle.remove(worker)
        return worker

    def take_named(self, worker_id: int, batch: B, now: float) -> Worker[C, B] | None:
        """Gives the batch to this worker, however many it has left open; None if it is not there or executes one."""
        ready = (WorkerState.READY, WorkerState.BUSY)
        worker = next((w for w in self.members if w.id == worker_id and w.state in ready and w.executing is None), None)
        if worker is not None:
            if worker in self.idle:
                self.idle.remove(worker)
            self.assign(worker, batch, now)
        return worker

    def ahead(self) -> int:
        """How many full batches could be sent to workers that execute others."""
        if not self.sends_ahead:
            return 0
        return sum(w.in_flight - w.held for w in self.members if w.executing is not None and not w.deaf)

    def ending(self, now: float) -> tuple[int, float]:
        """How many workers a batch that is sent now will find done, though they are busy yet; when that holds for the next."""
        count, following = 0, inf
        for worker in self.members:
            opens = worker.open_from
            if opens <= now:
                count += worker.is_ending(now)
            elif opens < following and worker.held == 1:
                following = opens
        return count, following

    def take_ahead(
        self, batch: B, now: float, fits: Callable[[Worker[C, B]], bool] = lambda worker: True
    ) -> Worker[C, B] | None:
        """Gives the batch to the busy worker that `fits` and will come to it first, as far as is known; None if none may.

        Where no worker is ending it is a full batch.
        """
        free = [w for w in self.members if w.is_ending(now) and fits(w)]
        if not free and self.sends_ahead:
            free = [w for w in self.members if w.executing is not None and w.held < w.in_flight and not w.deaf and fits(w)]
        if not free:
            return None
        worker = min(free, key=lambda worker: (worker.held, worker.open_from, min(worker.running.values(), default=-inf)))
        self.assign(worker, batch, now)
        return worker

    def assign(self, worker: Worker[C, B], batch: B, now: float) -> None:
        """The worker gets one batch more: it executes it, or does after those that it has."""
        if worker.executing is None:
            worker.executing = batch
            worker.running[batch] = self._due(now)
            lasts, trip = self._lasts(batch)
            worker.given = now
            worker.foresee(now + lasts, trip)  # it begins half a trip after now, and what is sent by then takes as long
        else:
            worker.waiting.append(batch)
            worker.ask_back(max(now, worker.open_until) + RECALL_S)
        worker.state = WorkerState.STOPPING if worker.leaving else WorkerState.BUSY
        worker.alarm = None

    def _due(self, now: float) -> float:
        return now + self._response_s if self._response_s > 0 else inf

    def progress(self, worker: Worker[C, B], batch: B, now: float) -> None:
        """A sign of life of a running batch: its response timeout starts again."""
        worker.remove(batch)
        if self._together:
            worker.running = dict.fromkeys(worker.running, self._due(now))
        worker.running[batch] = self._due(now)  # at the end, where the latest instant is

    def hangs(self, worker: Worker[C, B]) -> bool:
        """Whether what is late keeps the worker from working, or from leaving: it is what it executes, takes all its places, or
        is all that a leaving worker has."""
        if worker.leaving and not worker.unfinished:
            return True
        return worker.executing in worker.late or self._together or len(worker.late) >= worker.in_flight

    def returned(self, worker: Worker[C, B], batch: B, now: float) -> bool:
        """`execute` returned, and the batch is still open: the worker may take the next one. False where that is known."""
        if batch is not worker.executing:
            return False
        worker.executing = None
        worker.foresee(inf, 0.0)
        self._go_on(worker, now)
        return True

    def release(self, worker: Worker[C, B], batch: B, now: float) -> None:
        """The batch is over: the worker goes on with the next one, is idle, or is to be stopped if it is `leaving`."""
        worker.remove(batch)
        worker.served = True
        if batch is worker.executing:
            worker.executing = None
        if self._together:
            worker.running = dict.fromkeys(worker.running, self._due(now))
        self._go_on(worker, now)

    def asks(self, worker: Worker[C, B], now: float) -> bool:
        """Its model waits for another one, nobody knows for how long, perhaps for the very request that waits behind it. Returns
        whether one does, so that it is to be asked back."""
        if worker.open_until == inf:
            return False
        worker.ask_back(now)
        worker.foresee(inf, 0.0)
        return worker.recall_at < inf

    def recalled(self, worker: Worker[C, B], batch: B, now: float) -> bool:
        """The process gave back what was sent early; false where the worker does not have it any more."""
        if not worker.holds(batch):
            return False
        worker.remove(batch)
        if batch is worker.executing:  # what was before it is over meanwhile
            worker.executing = None
        self._go_on(worker, now)
        return True

    def _go_on(self, worker: Worker[C, B], now: float) -> None:
        if worker.executing is None and worker.waiting:
            worker.executing = worker.waiting.popleft()
            worker.running[worker.executing] = self._due(now)
            lasts, trip = self._lasts(worker.executing)
            worker.given = inf
            worker.foresee(now + lasts - trip, trip)  # it has begun half a trip before now
            worker.ask_back(max(now, worker.open_until) + RECALL_S)
        if worker.leaving:
            worker.alarm = None if worker.unfinished else now + STOP_GRACE_S
        elif worker.executing is None and worker.held < worker.in_flight and not worker.deaf:
            worker.state = WorkerState.BUSY if worker.held else WorkerState.READY
            if worker not in self.idle:
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
        worker.served = False
        worker.error, worker.load_failed = "", False
        if not worker.leaving:
            worker.alarm = None
            self._go_on(worker, now)

    def gone(self, worker: Worker[C, B], now: float, reason: str, load_failed: bool, innocent: bool = False) -> Held[B]:
        """The process ended. Returns what it held; the worker waits to start again, or has failed, or is gone.

        An `innocent` one, whose process others have ended that share it, starts again at once, however often that happens.
        """
        held = worker.lose_process()
        if worker in self.idle:
            self.idle.remove(worker)
        if worker.leaving:
            if worker in self.leaving:
                self.leaving.remove(worker)
            return held
        worker.error, worker.load_failed = reason, load_failed
        delay = 0.0 if innocent else worker.backoff.failed(now, worker.served)
        if delay is None or (load_failed and not self.retry and not self.ever_loaded):
            worker.state = WorkerState.FAILED
        else:
            worker.state, worker.alarm = WorkerState.BACKOFF, now + delay
            worker.restarts += 1
        return held

    # ---- time

    def wake_at(self) -> float | None:
        """The instant of the next alarm that may ring."""
        alarms = (alarm for alarm, _ in self._alarms())
        recalls = (worker.recall_at for worker in (*self.members, *self.leaving) if worker.recall_at < inf)
        return min((*alarms, *recalls), default=None)

    def due(self, now: float) -> list[tuple[Worker[C, B], Alarm]]:
        """The alarms that went off by now, each reported once; those of processes are put off where nobody looked in time."""
        for instant, worker in self._alarms():
            if instant < now - OVERSLEPT_S and worker.child is not None:
                self._put_off(worker, now)
        rung = [(worker, worker.alarm_means()) for alarm, worker in self._alarms() if alarm <= now]
        for worker, alarm in rung:
            if alarm is Alarm.ANSWERING:
                worker.note_late(now)
            else:
                worker.alarm = None
        recalls = [worker for worker in (*self.members, *self.leaving) if worker.recall_at <= now]
        for worker in recalls:
            worker.recall_at = inf
        return rung + [(worker, Alarm.RECALL) for worker in recalls]

    def _put_off(self, worker: Worker[C, B], now: float) -> None:
        means = worker.alarm_means()
        if means is Alarm.ANSWERING:
            worker.note_late(now)
            worker.excuse(self._due(now))
        else:
            worker.alarm = now + (self._startup_s if means is Alarm.LOADING else STOP_GRACE_S)

    def _alarms(self) -> list[tuple[float, Worker[C, B]]]:
        """Those that may ring; a worker that has to wait until others have loaded has none."""
        found = [(alarm, w) for w in (*self.members, *self.leaving) if (alarm := w.next_alarm()) is not None]
        if not self._at_once:
            return found
        starts = sorted((pair for pair in found if pair[1].child is None), key=lambda pair: pair[0])
        waiting = {id(worker) for _, worker in starts[max(0, self._at_once - self.loading() - self.starting()) :]}
        return [pair for pair in found if id(pair[1]) not in waiting]
