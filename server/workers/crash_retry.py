"""`CrashRetry`: what becomes of the requests that a worker had begun when its process ended.

They fail, each with the worker's end as its reason. Where the model allows it (`retry_after_crash`) the requests of a batch run
once more, each alone, so that of a batch with a bad one only that one fails.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from ...core.call import Call
from ...core.errors import JitneyError, WorkerDied
from .batches import Batches
from .running_calls import Again, RunningCalls
from .worker_process import WorkerProcess

log = logging.getLogger(__name__)

#: Workers that the requests of one batch may end when they run again, each alone.
_MOST_CRASHES = 2


class CrashRetry:
    """`allowed`: whether the model wants it. `expects_worker`: whether there is to be a worker for what runs again. `lock`:
    the supervisor's. `on_fatal`: the pool's. Any thread may call."""

    def __init__(
        self,
        batches: Batches,
        lock: threading.Lock,
        *,
        allowed: bool,
        expects_worker: Callable[[], bool],
        on_fatal: Callable[[Call], None] | None,
    ) -> None:
        self._batches, self._lock = batches, lock
        self._allowed, self._expects_worker, self._on_fatal = allowed, expects_worker, on_fatal

    def crashed(self, begun: Sequence[RunningCalls], child: WorkerProcess) -> None:
        """The process ended, and these batches are what it had begun: each fails, or its requests wait to run again."""
        alone = len(begun) == 1 and len(begun[0].live) == 1  # one request was all that it had begun
        for batch in begun:
            self._crashed(batch, child, alone and child.crashed)

    def _crashed(self, batch: RunningCalls, child: WorkerProcess, to_blame: bool) -> None:
        death = child.death()
        if batch.again is not None and not child.innocent:
            self._crashed_again(batch.again, death)
        if self._runs_again(batch, death, to_blame):
            self._run_again(batch, death, child.name)
            return
        if to_blame:
            self._batches.call_back(self._on_fatal, batch.live[0])
        self._batches.fail(batch, death, child.name)

    def _crashed_again(self, again: Again, death: JitneyError) -> None:
        """One of a batch's requests has ended a worker by itself. After `_MOST_CRASHES` of them the rest fails: each would cost
        everybody another start of the worker."""
        again.crashes += 1
        if again.crashes >= _MOST_CRASHES:
            for batch in self._batches.take_out(lambda batch: batch.again is again):
                self._batches.fail(batch, death)

    def _runs_again(self, batch: RunningCalls, death: JitneyError, to_blame: bool) -> bool:
        """Not a second time, nor what hung or is to blame, nor where no worker follows. The model may have changed the data of a
        lone request in shared memory; those of several, and what goes to a device, are copied before it sees them."""
        if not self._allowed or batch.again is not None or batch.pinned or batch.over or not isinstance(death, WorkerDied):
            return False
        in_place = len(batch.live) == 1 and batch.live[0].slots and not batch.launched
        if to_blame or not batch.untouched() or in_place:
            return False
        return self._expects_worker()

    def _run_again(self, batch: RunningCalls, death: JitneyError, worker: str) -> None:
        """The requests that had no part of their answer wait for a worker, each alone; the others fail."""
        again = Again()
        each = [self._batches.begin([call], again=again) for call in batch.untouched()]
        moved = {id(call) for one in each for call in one.calls}
        batch.calls = [call for call in batch.calls if id(call) not in moved]
        log.warning("%s; its %d requests run again, each alone", death, len(each))
        for call in batch.calls:
            call.fail(death)
        if batch.calls:
            self._batches.report(batch, worker)
        else:
            del self._batches.running[batch.number]
        with self._lock:
            self._batches.waiting.extend(one for one in each if one.live)
        for one in [one for one in each if not one.live]:  # its client has left meanwhile
            self._batches.report(one)
