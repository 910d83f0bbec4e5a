"""`Batches`: those of one pool, from the moment that they are handed in until they are reported.

Any thread may call the methods. `waiting` is changed with the supervisor's lock held; nobody is called back meanwhile.
"""

from __future__ import annotations

import collections
import itertools
import logging
import threading
from collections.abc import Callable, Sequence

from ...core.call import Call
from ...core.errors import JitneyError
from .messages import Results
from .running_calls import Again, BatchReport, RunningCalls

log = logging.getLogger(__name__)


class Batches:
    """
    running   by their number, until they are reported: what an answer's number stands for
    waiting   those that a worker is to take, in order: none would when they came, or theirs died before it had begun them

    `lock` is the supervisor's, `on_batch` the pool's.
    """

    def __init__(self, model: str, lock: threading.Lock, on_batch: Callable[[BatchReport], None] | None) -> None:
        self.running: dict[int, RunningCalls] = {}
        self.waiting: collections.deque[RunningCalls] = collections.deque()
        self._model, self._lock, self._on_batch = model, lock, on_batch
        self._numbers = itertools.count(1)

    def begin(self, calls: Sequence[Call], pinned: bool = False, again: Again | None = None) -> RunningCalls:
        """A batch of its own number; see `RunningCalls` for which of the calls are in it."""
        batch = RunningCalls(next(self._numbers), calls, pinned, again)
        self.running[batch.number] = batch
        return batch

    def take_out(self, of: Callable[[RunningCalls], bool]) -> list[RunningCalls]:
        """Those that wait and are `of` a kind; they wait no longer."""
        with self._lock:
            found = [batch for batch in self.waiting if of(batch)]
            for batch in found:
                self.waiting.remove(batch)
        return found

    def drop_answered(self) -> None:
        """Takes out what waits for a worker and has none to answer any more: its clients have left."""
        for batch in self.take_out(RunningCalls.is_answered):
            self.report(batch)

    def fail(self, batch: RunningCalls, error: JitneyError, worker: str = "") -> None:
        """Ends the calls that are not over, and with them the batch."""
        batch.fail(error)
        self.report(batch, worker)

    def report(self, batch: RunningCalls, worker: str = "", results: Results | None = None) -> None:
        """The batch is over, by the message `results` where there is one."""
        self.running.pop(batch.number, None)
        if self._on_batch is not None:
            self.call_back(self._on_batch, batch.report(worker, results))

    def call_back(self, function: Callable[..., None] | None, *arguments: object) -> None:
        """Calls one of the pool's callbacks; what goes wrong there is logged and must not keep calls from being answered."""
        if function is None:
            return
        try:
            function(*arguments)
        except Exception:
            log.exception("model '%s': %r failed", self._model, function)
