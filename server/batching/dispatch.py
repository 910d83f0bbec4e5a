"""`Dispatcher`: the lock, the clock and the timer around a Batcher. It decides nothing.

The thread that changes something steps the Batcher itself: `submit`, `cancel` and `wake` poll under the lock and hand out what
left, so a lone request on an idle worker crosses no thread (requests that one thread brings together: see `gather`). A timer
thread, started when something first waits for an instant, sleeps until the soonest `wake_at`; while nothing waits for an
instant it sleeps without limit.

Locking. One lock guards the Batcher and everything here. `idle` is called with it held, so `idle` may take the pool's lock and
must neither block nor call back; in turn the pool must not hold a lock that `idle` takes while it calls in here. `deliver` and
`expire` are called with no lock held and may call back (`wake` out of `deliver` is fine).

No worker is used twice. From the poll that took a batch until its `deliver` returned, the batch counts as a busy worker: the
free workers are `idle()` minus the batches in delivery. `deliver` therefore has to make `idle()` count one less before it
returns. While it runs the worker may be subtracted twice, so the Batcher is polled again after each delivery.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from math import inf
from typing import Protocol, TypeVar

from ...core.errors import Draining, NoWorkers, QueueFull
from ..ipc.coalesce import Coalescer
from .closed_loop import ClosedLoop
from .item import Batch, Item, Line, Step, Waiting

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Queue(Protocol):
    """What a dispatcher runs: a `Batcher`, or a `SequenceBatcher`."""

    def __len__(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def fills_batch(self) -> bool: ...

    def is_full(self, priority: int | None = None) -> bool: ...

    def oldest(self) -> float | None: ...

    def lines(self) -> list[tuple[Hashable, int, list[Item]]]: ...

    def submit(self, item: Item) -> None: ...

    def cancel(self, item: Item) -> bool: ...

    def clear(self) -> list[Item]: ...

    def poll(self, now: float, idle: int, ahead: int = 0) -> Step: ...


class Dispatcher:
    """Runs one Batcher: any number of threads may call it.

        create → submit/cancel/wake … → drain → close

    idle     number of workers that could start a batch at once; quick, never raises
    ahead    number of full batches that busy workers would take besides, likewise
    ending   number of busy workers that are to have their next batch now, since it will find them done, and the instant at which
             that holds for another one, likewise
    deliver  gives a batch to a worker; should that fail, it answers the batch's items itself
    expire   answers an item whose deadline passed
    tickets  a request is refused unless a worker is idle for it (TorchServe's useJobTicket)
    coalescer  the process', so that requests that a thread brings together leave together

    What `deliver` or `expire` raises all the same is logged; the thread that happens to call them is not to blame.
    """

    def __init__(
        self,
        batcher: Queue,
        *,
        idle: Callable[[], int],
        deliver: Callable[[Batch], None],
        expire: Callable[[Item], None],
        clock: Callable[[], float] = time.monotonic,
        name: str = "",
        tickets: bool = False,
        coalescer: Coalescer | None = None,
        ahead: Callable[[], int] = lambda: 0,
        ending: Callable[[float], tuple[int, float]] = lambda now: (0, inf),
    ) -> None:
        self._batcher, self._clock, self._name, self._tickets = batcher, clock, name, tickets
        self._idle, self._ahead, self._ending, self._deliver, self._expire = idle, ahead, ending, deliver, expire
        self._coalescer = coalescer or Coalescer()
        self._lock = threading.Lock()
        self._alarm = threading.Condition(self._lock)  # the timer sleeps here
        self._settled = threading.Condition(self._lock)  # `drain` sleeps here
        self._delivering = 0  # batches taken whose `deliver` has not returned
        self._armed = inf  # the timer wakes up by itself at this instant at the latest
        self._timer: threading.Thread | None = None
        self._closed = False
        self._closed_loop = ClosedLoop()
        self.low_latency = False  # whether a batch takes less time than reading the requests of the next one; see `coalesce`
        self._wake = self.wake  # one object, so that it is found among those that are deferred

    # Any thread

    def submit(self, item: Item) -> None:
        """Accepts the item: it will be delivered, expire, or come back from `cancel` or `close`.

        Raises QueueFull, BatchTooWide, NoWorkers (with tickets) or Draining (after `close`), and then keeps nothing.
        """
        with self._lock:
            if self._closed:
                raise Draining(f"model '{self._name}' is being stopped")
            if self._tickets and self._free() <= len(self._batcher):
                raise NoWorkers(f"model '{self._name}' has no idle worker, and takes no request that would have to wait")
            waits, step = self._line_up(item)
        if step is not _NOTHING:
            self._carry_out(step)
        if not waits:
            self.submit(item)

    def refuse_if_full(self, priority: int | None = None) -> None:
        """Raises QueueFull where `submit` would for a request of this priority (None: whatever its priority).

        So that a request that cannot be taken costs no more than this question.
        """
        if not self._batcher.is_full(priority):
            return
        self.wake()  # what is gathered for an idle worker makes room
        if self._batcher.is_full(priority):
            self._coalescer.refused()
            raise QueueFull("Exceeds maximum queue size")

    def cancel(self, item: Item) -> bool:
        """Takes the item out; false if it left already and its answer is on the way."""
        with self._lock:
            found = self._batcher.cancel(item)
            step = self._poll() if found else _NOTHING
        self._carry_out(step)
        return found

    def wake(self) -> None:
        """A worker became idle, or requests were gathered (`gather`)."""
        with self._lock:
            step = self._poll()
        self._carry_out(step)

    def answered(self, rows: int, took: float) -> None:
        """The model's only worker has finished a batch of so many rows, which took it so many seconds; `wake` follows."""
        with self._lock:
            self._closed_loop.answered(self._clock(), rows, took)

    def update(self, change: Callable[[], None]) -> None:
        """Runs `change`, which tells the Batcher something, with the lock held; then hands out what left."""
        with self._lock:
            change()
            step = self._poll()
        self._carry_out(step)

    def pending(self) -> int:
        """Requests waiting."""
        return len(self._batcher)

    def pending_rows(self) -> int:
        return self._batcher.rows

    def waited(self) -> float:
        """Seconds that the oldest waiting request has waited; 0.0 if none does."""
        with self._lock:
            oldest = self._batcher.oldest()
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def waiting(self) -> Waiting:
        """What waits, lane by lane; takes time in proportion to it, with the lock held only while it is copied."""
        with self._lock:
            requests, rows, oldest = len(self._batcher), self._batcher.rows, self._batcher.oldest()
            found, now = self._batcher.lines(), self._clock()
        lines = tuple(
            Line(
                key,
                rank >> 1,
                bool(rank & 1),
                len(items),
                sum(item.rows for item in items),
                max(0.0, now - items[0].arrived),
            )
            for key, rank, items in found
        )
        return Waiting(requests, rows, 0.0 if oldest is None else max(0.0, now - oldest), lines)

    def drain(self, timeout: float) -> bool:
        """Waits until nothing waits or is being delivered; false after `timeout` seconds."""
        with self._lock:
            return self._settled.wait_for(self._is_settled, timeout)

    def clear(self) -> list[Item]:
        """Takes out everything that waits, for the owner to answer."""
        with self._lock:
            left = self._batcher.clear()
            self._poll()
        return left

    def close(self) -> list[Item]:
        """Stops, ends the timer and returns what still waited, for the owner to answer. Later calls return nothing.

        Must not be called with a lock held that `deliver` or `expire` take. A delivery that began goes on to its end.
        """
        with self._lock:
            self._closed = True
            left = self._batcher.clear()
            self._alarm.notify_all()
            self._settled.notify_all()
            timer = self._timer
        if timer is not None and timer is not threading.current_thread():
            timer.join()
        return left

    # With the lock held

    def _line_up(self, item: Item) -> tuple[bool, Step]:
        """Whether the item waits now, and what leaves. Raises QueueFull where nothing can leave to make room for it."""
        self._closed_loop.arrived(item.arrived, item.rows)
        try:
            self._batcher.submit(item)
        except QueueFull:
            step = self._poll()  # a worker may be idle, and what waits for it be gathered only
            if not step.batches:
                self._coalescer.refused()
                raise
            return False, step
        return True, _NOTHING if self._gathers() else self._poll()

    def _gathers(self) -> bool:
        """Whether this request waits for those that its thread is about to bring: not where its batch is full already."""
        return not self._batcher.fills_batch and self._coalescer.defer(self._wake, self.low_latency)

    def _free(self) -> int:
        return self._idle() - self._delivering

    def _poll(self) -> Step:
        if not len(self._batcher):
            step = _NOTHING
        else:
            now = self._clock()
            free, opens = self._places(now)
            ahead = 0 if free > 0 else self._ahead() + free
            step = self._batcher.poll(now, free, ahead)
            self._delivering += len(step.batches)
            wake_at = opens if step.wake_at is None else min(step.wake_at, opens)
            if wake_at < self._armed and len(self._batcher):
                self._arm(wake_at)
        if self._is_settled():
            self._settled.notify_all()
        return step

    def _places(self, now: float) -> tuple[int, float]:
        """How many batches may leave now, and when another one may without anything happening before."""
        free, grows = self._free(), not self._batcher.fills_batch
        if free > 0:
            until = self._closed_loop.waits_until(now) if grows else now
            return (free, inf) if until <= now else (0, until)
        if grows and self._closed_loop.returns:
            return free, inf
        ending, opens = self._ending(now)
        return free + ending, opens

    def _arm(self, instant: float) -> None:
        if self._timer is None:
            timer = threading.Thread(target=self._watch, name=f"batch-timer-{self._name}", daemon=True)
            try:
                timer.start()  # it comes as far as the lock
            except RuntimeError:  # the system has no thread left; the next poll tries again
                logger.exception("model '%s': cannot start the timer, batches leave late", self._name)
                return
            self._timer = timer
        self._armed = instant
        self._alarm.notify()

    def _is_settled(self) -> bool:
        return not self._delivering and not len(self._batcher)

    # Without the lock

    def _carry_out(self, step: Step) -> None:
        """Answers what expired, hands out what left, and what more can leave because of it."""
        batches: deque[Batch] = deque()
        while True:
            for item in step.expired:
                self._call(self._expire, item)
            batches += step.batches
            if not batches:
                return
            self._call(self._deliver, batches.popleft())
            with self._lock:
                self._delivering -= 1
                step = self._poll()

    def _call(self, answer: Callable[[T], None], subject: T) -> None:
        try:
            answer(subject)
        except Exception:
            logger.exception("model '%s': could not hand out %r", self._name, subject)

    # The timer thread

    def _watch(self) -> None:
        while (step := self._due()) is not None:
            self._carry_out(step)

    def _due(self) -> Step | None:
        """Sleeps until something is due; None once closed."""
        with self._lock:
            while not self._closed:
                remaining = self._armed - self._clock()
                if remaining <= 0:
                    self._armed = inf
                    return self._poll()
                self._alarm.wait(None if remaining == inf else min(remaining, threading.TIMEOUT_MAX))
        return None


_NOTHING = Step([], [], None)  # shared; a step is never changed
