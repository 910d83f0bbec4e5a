"""One worker of a model: its state, its next alarm, and the batches that its process holds. Pure: time is an argument.

    STARTING ──▶ READY ◀──▶ BUSY          any of them ──(process ends)──▶ BACKOFF ──▶ STARTING
        READY, BUSY ──(scaled down)──▶ STOPPING ──▶ gone                    └──(too often)──▶ FAILED

A worker keeps its id, name and device when its process is replaced.

It may hold several batches (`in_flight`). It executes one at a time; the others are

    waiting   sent ahead, so that the next one is there when the present one is over; only full batches are
    open      `execute` has returned, and answers are still to come (`overlaps`: decoupled models, asynchronous handlers)

Callers hold the supervisor's lock. What leads from one state to the next, the `roster` knows.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Generic, TypeVar

from ...core.request import Instance
from ..process.backoff import Backoff

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
    RECALL = "it takes longer than foreseen, and others may run what waits behind that"
    STOPPING = "it takes too long to end"


@dataclass(frozen=True, slots=True)
class Held(Generic[B]):
    """What a process held when it ended: what it had begun, and what it had not."""

    begun: list[B]
    untouched: list[B]


@dataclass(eq=False, slots=True)
class Worker(Generic[C, B]):
    """`alarm`: the instant of the next `Alarm` of its life, None = none. `error`: the last ending's reason, "" after a good
    start. `began`: when its latest process was started, in seconds since the epoch; 0.0 where there was none yet.

    in_flight   batches that its process may hold
    executing   the batch that its process runs now
    running     this one and the open ones, each with the instant by which a sign of life is due (inf = never), soonest first
    late        those of them that gave none, and whose alarm has rung
    waiting     batches that were sent ahead
    served      whether it has finished a batch since it was loaded
    deaf        its process did not take a batch, so it is about to end: it is offered no other one
    given       when it got the batch that it executes, having been idle; inf where that one followed another
    open_from   the instant from which the next batch may be on its way, since it will arrive when this one is over, until
    open_until  the one by which it should have been; inf where no end is foreseen
    recall_at   when what was sent early is to be asked back; inf = it has come to it, or is not
    """

    id: int
    instance: Instance
    backoff: Backoff
    state: WorkerState = WorkerState.STARTING
    child: C | None = None
    executing: B | None = None
    running: dict[B, float] = field(default_factory=dict)
    late: list[B] = field(default_factory=list)
    waiting: deque[B] = field(default_factory=deque)
    alarm: float | None = None
    restarts: int = 0
    error: str = ""
    load_failed: bool = False
    leaving: bool = False
    served: bool = False
    deaf: bool = False
    in_flight: int = 1
    began: float = 0.0
    given: float = inf
    open_from: float = inf
    open_until: float = inf
    recall_at: float = inf

    @property
    def held(self) -> int:
        """Batches that its process holds."""
        return len(self.running) + len(self.late) + len(self.waiting)

    @property
    def unfinished(self) -> bool:
        """Whether it holds a batch that somebody waits for."""
        return bool(self.running or self.waiting)

    def is_ending(self, now: float) -> bool:
        """Whether a batch that is sent now will arrive when the present one, which is all that it holds, is over."""
        return self.open_from <= now < self.open_until and self.held == 1 and not self.deaf

    def ask_back(self, at: float) -> None:
        """What waits behind a batch whose end was foreseen is to be asked back at that instant, where it waits still."""
        self.recall_at = at if self.waiting and self.open_until < inf else inf

    def foresee(self, end: float, trip: float) -> None:
        """What it executes will be over by `end`, less than `trip` seconds before that is known; inf = nobody can tell."""
        self.open_from, self.open_until = end, end + 2 * trip

    def batches(self) -> Iterator[B]:
        """All of them, those that wait last."""
        yield from self.late
        yield from self.running
        yield from self.waiting

    def holds(self, batch: B) -> bool:
        return batch in self.running or batch in self.late or batch in self.waiting

    def barren(self) -> bool:
        """Whether nothing is to be hoped for: it was given up, or could not load the model when it last tried."""
        return self.load_failed or self.state is WorkerState.FAILED

    def next_alarm(self) -> float | None:
        """The sooner of the alarms of its life and of its batches."""
        due = next(iter(self.running.values()), inf)
        if self.alarm is not None and self.alarm <= due:
            return self.alarm
        return None if due == inf else due

    def alarm_means(self) -> Alarm:
        if self.child is None:
            return Alarm.START
        if self.unfinished:
            return Alarm.ANSWERING
        return Alarm.STOPPING if self.leaving else Alarm.LOADING

    def note_late(self, now: float) -> None:
        """What has given no sign of life by now is late."""
        late = [batch for batch, due in self.running.items() if due <= now]
        self.late += late
        for batch in late:
            del self.running[batch]

    def excuse(self, until: float) -> None:
        """What is late may take until then."""
        running = {**self.running, **dict.fromkeys(self.late, until)}
        self.late.clear()
        self.running = dict(sorted(running.items(), key=lambda pair: pair[1]))

    def remove(self, batch: B) -> None:
        """It holds this batch no longer."""
        if self.running.pop(batch, None) is not None:
            return
        # One that waits may be over before its turn, where two threads sent side by side.
        for store in (self.late, self.waiting):
            if batch in store:
                store.remove(batch)

    def take_back(self, batch: B) -> bool:
        """The batch did not reach its process, which is about to end; false where that has ended already."""
        if self.holds(batch):
            self.deaf = True
        if batch in self.waiting:
            self.waiting.remove(batch)
            return True
        if batch is not self.executing:
            return False
        self.remove(batch)
        self.executing = None
        return True

    def lose_process(self) -> Held[B]:
        """Its process ended; returns what that held."""
        held = Held([*self.late, *self.running], list(self.waiting))
        self.executing = self.child = self.alarm = None
        self.deaf, self.recall_at = False, inf
        self.running, self.late, self.waiting = {}, [], deque()
        return held
