"""`Rests`: which workers of a pool rest, since no client of theirs reads as fast as the model answers.

A model that answers in parts (decoupled, a handler with intermediate responses) is held back where its answers would only pile
up: its worker's next part waits until a client has caught up. It is held back only while that harms nobody else: every request
that the worker holds has more answers than its client has read, and no request waits for a worker of the model. Where another
one comes, a client leaves, or the worker is to end, the model goes on, and its answers pile up (`frontends.pending_reply`).
So no client waits for another one that reads slowly, and a model never waits for itself. TorchServe keeps what a client does not
read, without a bound; so does Triton unless `--grpc-max-response-pool-size` says how many answers may wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...core.call import Call
from .messages import Rest
from .running_calls import RunningCalls
from .supervisor import Member, Supervisor
from .worker_process import WorkerProcess


class Rests:
    """Any thread may call the methods, none with the supervisor's lock. What a resting worker holds is not late.

    resting  the workers that rest; whoever hands one a batch looks whether there are any
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor, self._lock, self._roster = supervisor, supervisor.lock, supervisor.roster
        self.resting: set[WorkerProcess] = set()  # changed with the supervisor's lock held
        self._told: set[WorkerProcess] = set()
        self._telling = threading.Lock()

    def begin(self, call: Call, is_wanted: Callable[[], bool]) -> None:
        """The client of this call has a lot to read: its worker rests if that harms nobody. `is_wanted`: whether a request waits
        for a worker."""
        with self._lock:
            found = self._find(call)
            if found is None:
                return
            worker, child, batch = found
            batch.slow.add(call)
            if not self._may_rest(worker) or is_wanted():
                return
            self.resting.add(child)
        self._tell(child)
        if is_wanted():  # who came meanwhile may not have seen it
            self.end(child)

    def over(self, call: Call) -> None:
        """The client of this call has read most of it, or has left."""
        with self._lock:
            found = self._find(call)
            if found is not None:
                found[2].slow.discard(call)
        if found is not None:
            self.end(found[1])

    def end(self, *children: WorkerProcess) -> None:
        """These go on; all, where none is named."""
        with self._lock:
            ended = self.resting.intersection(children) if children else set(self.resting)
            self.resting -= ended
        for child in ended:
            self._tell(child)

    def forget(self, child: WorkerProcess) -> None:
        """Its process has ended."""
        with self._lock:
            self.resting.discard(child)
        with self._telling:
            self._told.discard(child)

    def excused(self, child: WorkerProcess, limit_s: float) -> float | None:
        """The instant up to which a process may be silent because it rests, None = it does not."""
        return time.monotonic() + limit_s if child in self.resting else None

    def _find(self, call: Call) -> tuple[Member, WorkerProcess, RunningCalls] | None:
        """With the lock held."""
        for worker in (*self._roster.members, *self._roster.leaving):
            for batch in worker.batches():
                if worker.child is not None and call in batch.live:
                    return worker, worker.child, batch
        return None

    def _may_rest(self, worker: Member) -> bool:
        """With the lock held: whether nobody waits for what the worker does."""
        if worker.leaving or worker.waiting or self._supervisor.closing:
            return False
        return all(call.done or call in batch.slow for batch in worker.batches() for call in batch.live)

    def _tell(self, child: WorkerProcess) -> None:
        """Tells the process what holds now, whoever else changes it."""
        with self._telling:
            rests = child in self.resting
            if rests == (child in self._told):
                return
            if rests:
                self._told.add(child)
            else:
                self._told.discard(child)
                child.heard = time.monotonic()  # its time begins anew
            try:
                child.send(Rest(rests))
            except OSError:
                pass  # it is gone, and nobody waits for it
