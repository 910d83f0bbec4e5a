"""`Delivery`: brings a pool's batches to its workers.

Any thread may call the methods. The supervisor's lock is held while a batch finds its worker, never while it is sent or while
somebody is called back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from ...core.call import Call
from ...core.errors import Draining, JitneyError, WorkerDied
from .batches import Batches
from .crash_retry import CrashRetry
from .rests import Rests
from .running_calls import RunningCalls, Stage
from .status import Seat
from .supervisor import Member, Supervisor
from .worker_process import WorkerProcess
from .worker_state import Held


class Delivery:
    """`batches` are those of the pool whose workers `supervisor` has, `on_idle` is the pool's; `launches` as `placement`'s."""

    def __init__(
        self,
        model: str,
        batches: Batches,
        supervisor: Supervisor,
        crash_retry: CrashRetry,
        on_idle: Callable[[], None],
        launches: bool,
        rests: Rests,
    ) -> None:
        self._model, self._batches, self._supervisor, self._on_idle = model, batches, supervisor, on_idle
        self._crash_retry, self._launches, self._rests = crash_retry, launches, rests
        self._lock, self._roster, self._waiting = supervisor.lock, supervisor.roster, batches.waiting

    def execute(self, calls: Sequence[Call]) -> None:
        """Hands one batch to an idle worker, or ahead to a busy one; answers and errors arrive on the calls, then `on_batch` is
        called.

        Where no worker may have it (one may have died since the caller looked) the batch goes to the next that may.
        `call.slots` are the slots of the request's tensors, then its parts, or empty: then the data goes with the message.
        """
        batch = self._batches.begin(calls)
        if not batch.live:
            self._batches.report(batch)
            return
        with self._lock:
            worker = None if self._waiting else self._take(batch)
            if worker is None:
                batch.note_waiting()
                self._waiting.append(batch)
        if worker is None:
            self._rests.end()
            self.serve_waiting()
            self.give_up_without_workers()
        else:
            self._hand_over(worker, batch)

    def execute_on(self, seat: Seat, calls: Sequence[Call]) -> None:
        """Hands one batch to this worker and to no other, as `execute` does.

        Where it is gone or executes another one the calls fail with WorkerDied.
        """
        batch = self._batches.begin(calls, pinned=True)
        if not batch.live:
            self._batches.report(batch)
            return
        with self._lock:
            here = any(w.child and w.child.serial == seat.serial for w in self._roster.members)
            worker = self._roster.take_named(seat.worker, batch, time.monotonic()) if here else None
            self._place(batch, worker)
        if worker is None:
            self._batches.fail(batch, WorkerDied(f"the worker of model '{self._model}' that held the sequence is gone"))
        else:
            self._hand_over(worker, batch)

    def _take(self, batch: RunningCalls) -> Member | None:
        """With the lock held."""
        now = time.monotonic()
        worker = self._roster.take(batch, now)
        if worker is None and batch.is_light and batch.again is None:
            worker = self._roster.take_ahead(batch, now, fits=_runs_nothing_again)
            if worker is not None:
                batch.follows = all(other.stage is Stage.SENT for other in worker.batches() if other is not batch)
        self._place(batch, worker)
        return worker

    def _place(self, batch: RunningCalls, worker: Member | None) -> None:
        batch.process = worker.child if worker is not None else None
        batch.launched = self._launches and worker is not None and worker.instance.gpu is not None

    def _hand_over(self, worker: Member, batch: RunningCalls) -> None:
        batch.note_start()
        with self._lock:
            if batch.stage is not Stage.UNSENT or not worker.holds(batch):
                return  # its process has ended since it was given the batch, and `lost` has passed that on
            batch.stage, child = Stage.WRITING, batch.process
        try:
            if child is None:
                raise ConnectionError("the worker is gone")
            if self._rests.resting:
                self._rests.end(child)
            whole = child.execute(batch.message, partial(self._written, worker, child, batch))
        except OSError:
            self._take_back(worker, batch)
        except ValueError as error:  # BadFrame: more than fits
            if self._release(worker, batch):
                self._batches.fail(batch, JitneyError(f"the batch cannot be handed to a worker: {error}"))
        else:
            if whole:
                self._written(worker, child, batch, True)

    def _written(self, worker: Member, child: WorkerProcess, batch: RunningCalls, whole: bool) -> None:
        """The worker's process has the batch whole, or will have it if it goes on reading; or it does not read any more. A helper
        where the socket did not take it at once."""
        if not whole:
            self._take_back(worker, batch)
            return
        with self._lock:
            orphaned, batch.stage = batch.stage is Stage.ORPHANED, Stage.SENT
        if orphaned:
            self._lose(child, [batch])
            self.serve_waiting()
            self.give_up_without_workers()
        self._supervisor.watch(worker)

    def _take_back(self, worker: Member, batch: RunningCalls) -> None:
        """The worker died before it got the batch whole, so it has not begun: another may run it, unless it is pinned."""
        child = batch.process
        with self._lock:
            ours = worker.take_back(batch) or batch.stage is Stage.ORPHANED  # else `lost` is about to hear of it
            batch.stage = Stage.UNSENT
            if ours and not batch.pinned:
                batch.note_waiting()
                self._waiting.appendleft(batch)
        if child is not None:
            child.kill()
        if ours and batch.pinned:
            self._batches.fail(batch, WorkerDied(f"the worker of model '{self._model}' that held the sequence died"))
        elif ours:
            self.serve_waiting()
            self.give_up_without_workers()

    def _release(self, worker: Member, batch: RunningCalls) -> bool:
        """Takes back a batch that the worker did not get; false where its process has just ended, so that `lost` does that."""
        with self._lock:
            if not worker.holds(batch):
                orphaned, batch.stage = batch.stage is Stage.ORPHANED, Stage.UNSENT
                return orphaned
            self._roster.release(worker, batch, time.monotonic())
        self.go_on(worker)
        return True

    # ---- what has changed

    def go_on(self, worker: Member) -> None:
        """The worker may have one batch more, or goes."""
        following = None
        with self._lock:
            leaving = worker.leaving
            if leaving and self._waiting and self._supervisor.closing and worker.executing is None:
                following = self._waiting.popleft()  # no other worker will come: what was accepted is finished
                self._roster.assign(worker, following, time.monotonic())
                self._place(following, worker)
            over = leaving and not worker.unfinished
        if following is not None:
            self._hand_over(worker, following)
        elif over:
            self._supervisor.dismiss(worker)
        elif not leaving:
            self.serve_waiting()
            self._batches.call_back(self._on_idle)

    def serve_waiting(self) -> None:
        """Workers may be idle: those batches go that wait for one."""
        if not self._waiting:  # who adds one serves it
            return
        self._batches.drop_answered()
        while True:
            with self._lock:
                worker = self._take(self._waiting[0]) if self._waiting else None
                if worker is None:
                    return
                batch = self._waiting.popleft()
            self._hand_over(worker, batch)

    def lost(self, child: WorkerProcess, held: Held[RunningCalls]) -> None:
        """The process ended and held these. What it may have begun fails, or runs again; the others are the next to be served.

        How far a batch came that is being written to it is known to the thread that writes, which then does the same with it.
        """
        known = []
        with self._lock:
            for batch in held.begun:
                batch.follows = False
            for batch in (*held.begun, *held.untouched):
                if batch.stage is Stage.WRITING:
                    batch.stage = Stage.ORPHANED
                else:
                    known.append(batch)
        self._lose(child, known)

    def _lose(self, child: WorkerProcess, batches: Sequence[RunningCalls]) -> None:
        begun = [batch for batch in batches if batch.may_have_begun()]
        untouched = [batch for batch in batches if batch not in begun]
        with self._lock:
            for batch in untouched:
                batch.stage, batch.follows = Stage.UNSENT, False
                batch.note_waiting()
            self._waiting.extendleft(reversed(untouched))
        self._crash_retry.crashed(begun, child)

    def recalled(self, worker: Member, batch: RunningCalls) -> None:
        """The worker's process gave the batch back: it is the next to be served, by whoever is done first."""
        with self._lock:
            if not self._roster.recalled(worker, batch, time.monotonic()):
                return
            batch.stage, batch.follows, batch.process = Stage.UNSENT, False, None
            batch.note_waiting()
            self._waiting.appendleft(batch)
        self.serve_waiting()
        self.go_on(worker)

    def give_up_without_workers(self) -> None:
        """Fails waiting batches that no worker will ever take."""
        with self._lock:
            if not self._waiting or not self._roster.no_workers_left():
                return
            batches, closing = list(self._waiting), self._supervisor.closing
            self._waiting.clear()
        error = Draining(f"model '{self._model}' is stopping") if closing else self._supervisor.no_workers()
        for batch in batches:
            self._batches.fail(batch, error)


def _runs_nothing_again(worker: Member) -> bool:
    """What runs again after a crash has its worker to itself, so that it alone is to blame where that one ends too."""
    return all(batch.again is None for batch in worker.batches())
