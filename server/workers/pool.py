"""`Pool`: the worker processes of one model version, their batches and their replacements.

    pool = Pool(config, arena, on_idle=dispatcher.wake)
    pool.start(2)                               begins to start workers
    pool.wait_ready(60)                         LoadFailed with the model's own reason
    while pool.idle(): pool.execute(calls)      answers arrive on the calls
    while pool.ahead(): pool.execute(calls)     the same for full batches, for busy workers
    pool.scale(4)
    pool.stop(30)

A batch's way: `delivery` brings it to a worker, the pool gives the worker's answers to its calls, `batches` reports it. Where
its worker ends before that, `crash_retry` says what becomes of it.

Threads: any may call the methods. What a process says is read by threads that all pools share (`worker_process.WorkerProcess`
says which); they answer calls and run `on_idle`, `on_batch`, `on_event`. The `supervisor` starts processes and ends those that
take too long. They share one lock, which is never held while anything is sent, read or called back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from ...core.call import Call
from ...core.errors import Draining, JitneyError, LoadFailed
from ...core.model_config import AT_ONCE, ModelConfig
from ...core.request import Failure
from ..ipc.arena import Arena
from ..ipc.io_context import IoContext
from ..ipc.messages import Message
from ..process import cores
from ..process.log_format import about
from . import capacity, placement
from .batches import Batches
from .crash_retry import CrashRetry
from .delivery import Delivery
from .host_calls import HostCalls, HostServer
from .messages import Copied, Event, HostCall, HostCancel, Recalled, Results
from .rests import Rests
from .running_calls import BatchReport, RunningCalls
from .shared_process import Groups
from .status import Seat, WorkerStatus, seats, status
from .supervisor import Member, Supervisor
from .worker_process import WorkerProcess
from .worker_state import Held


class Pool:
    """Workers of one model version. See the module's page for the order of calls and the threads.

    on_idle   a worker became idle, or may be sent one batch more ahead; may call `execute`
    on_over      a batch of so many rows is over, which took its worker so many seconds; then `on_idle`, then it is answered
    on_returned  `execute` has returned for a batch that is not over (see `overlaps`); then `on_idle`
    on_fatal  this call, alone in its worker, has crashed it; called before the call fails
    on_batch  a batch is over, all its calls are answered; called once for every batch, also where its worker died
    on_event  `(kind, payload)` that a model emitted
    on_state  a worker became ready, or is no longer
    host      answers what models ask of the server
    factory   `module:function` that makes the backend, "" = the package's own
    groups    the processes that its workers may share with other models'

    Callbacks must not call `stop`, nor wait for answers of this pool.
    """

    def __init__(
        self,
        config: ModelConfig,
        arena: Arena,
        *,
        on_idle: Callable[[], None],
        on_batch: Callable[[BatchReport], None] | None = None,
        on_returned: Callable[[Sequence[Call]], None] | None = None,
        on_over: Callable[[int, float], None] | None = None,
        on_fatal: Callable[[Call], None] | None = None,
        host: HostServer | None = None,
        factory: str = "",
        on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
        on_state: Callable[[], None] | None = None,
        gpus: Sequence[int] | None = None,
        io: IoContext | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.config = config
        self._on_idle, self._on_returned, self._on_over = on_idle, on_returned, on_over
        self._on_event, self._on_state, self._gpus = on_event, on_state, gpus
        self._host_calls = HostCalls(host, config.name)
        self._log = logging.getLogger(f"jitney.model.{config.name}")
        self._supervisor = Supervisor(
            config,
            arena,
            factory,
            on_message=self._message,
            on_ready=self._ready,
            on_end=self._end,
            on_late=self._late,
            excused=lambda *silent: self.rests.excused(*silent) or self._host_calls.excused(*silent),
            io=io or IoContext(),
            groups=groups or Groups(),
        )
        self._lock, self._roster, self.rests = self._supervisor.lock, self._supervisor.roster, Rests(self._supervisor)
        self._batches = Batches(config.name, self._lock, on_batch)
        crash_retry = CrashRetry(
            self._batches,
            self._lock,
            allowed=config.retry_after_crash,
            expects_worker=lambda: not self._supervisor.closing and self.target() > 0,
            on_fatal=on_fatal,
        )
        launches = placement.launches(config)
        self._delivery = Delivery(config.name, self._batches, self._supervisor, crash_retry, on_idle, launches, self.rests)
        # The parts' own, so that no call of the pool's lies on every batch's way.
        self.execute, self.execute_on = self._delivery.execute, self._delivery.execute_on
        self.wait_ready, self.no_workers = self._supervisor.wait_ready, self._supervisor.no_workers

    # ---- size

    def start(self, count: int, *, retry: bool = False) -> None:
        """Begins to start workers and returns at once.

        A model that no worker has ever loaded is not tried again, unless `retry` (TorchServe's way to register).
        """
        self._roster.retry = retry
        self.scale(count)

    def scale(self, count: int) -> None:
        """Begins to add workers, or lets the last ones go, each after its batch. FAILED workers get another chance.

        InvalidConfig where an instance has no place on this machine, or all of them have none; ValueError for a negative
        count.
        """
        if count < 0:
            raise ValueError(f"number of workers must not be negative, got {count}")
        capacity.check(self.config.name, count, self._roster.target)
        gpus = cores.machine_gpus() if self._gpus is None else self._gpus
        threads = cores.wanted_threads()
        places = placement.instances(self.config, count, gpus=gpus, cores=cores.usable_cores(), threads=threads)
        self._supervisor.resize(count, places)
        self.rests.end()  # who goes is to finish first
        self._delivery.give_up_without_workers()

    def stop(self, timeout: float) -> None:
        """Ends all workers; returns when no process and no thread is left. May be called again.

        Batches are finished first; calls that are not answered after `timeout` seconds fail with Draining.
        """
        self._supervisor.close()
        self.rests.end()
        self._delivery.give_up_without_workers()
        left = self._supervisor.wait_ended(time.monotonic() + timeout)
        cause = Draining(f"model '{self.config.name}' was stopped before it answered")
        for child in left:
            child.kill(cause)
        self._supervisor.join()
        self._delivery.give_up_without_workers()
        self._host_calls.close()

    @property
    def failure(self) -> LoadFailed | None:
        """Why a worker could not load, lately; None once one could."""
        return self._supervisor.failure

    # ---- figures

    def idle(self) -> int:
        """Workers that could take a batch now. Takes no lock."""
        return max(0, len(self._roster.idle) - len(self._batches.waiting))

    def ahead(self) -> int:
        """Full batches that could be sent to busy workers now, beside those for idle ones. Takes no lock."""
        return 0 if self._batches.waiting else self._roster.ahead()

    def ending(self, now: float) -> tuple[int, float]:
        """`Roster.ending`. Takes no lock."""
        return (0, inf) if self._batches.waiting else self._roster.ending(now)

    def busy(self) -> bool:
        """Whether a worker holds a batch: one that waits, runs, or was left open."""
        with self._lock:
            held = any(worker.unfinished for worker in (*self._roster.members, *self._roster.leaving))
            return held or bool(self._batches.waiting)

    def ready(self) -> int:
        """Workers that have loaded the model, busy or not. Takes no lock."""
        return self._roster.ready()

    def healthy(self) -> int:
        """Workers that are ready, starting or waiting to be started again; those given up do not count."""
        with self._lock:
            return self._roster.healthy()

    def no_workers_left(self) -> bool:
        """Whether who waits for a worker waits for nothing, as far as is known: there is none, or none could load the model
        when it last tried, whether or not it will try again. Takes no lock."""
        return not self._roster.idle and self._roster.barren()

    @property
    def accepting(self) -> bool:
        """Whether there are workers, and none of them could not load lately. Takes no lock."""
        return self._supervisor.failure is None and bool(self._roster.members)

    def target(self) -> int:
        """Workers that should be there. Takes no lock."""
        return self._roster.target

    def workers(self) -> list[WorkerStatus]:
        """All workers, those that are leaving last."""
        with self._lock:
            found = [*self._roster.members, *self._roster.leaving]
        return [status(worker) for worker in found]

    def seats(self) -> list[Seat]:
        """The workers that have loaded the model and stay, busy or not."""
        with self._lock:
            return seats(self._roster.members)

    # ---- batches: for `execute` and `execute_on` see `Delivery`

    def cancel(self, call: Call) -> None:
        """Tells the worker that holds this call, if any does, that its client has gone (`Request.is_cancelled`)."""
        with self._lock:
            workers = [*self._roster.members, *self._roster.leaving]
            held = [(w.child, batch) for w in workers if w.child for batch in w.batches() if call in batch.live]
        for child, batch in held:
            batch.withdraw(child, batch.live.index(call))
            self.rests.end(child)

    # ---- messages (whoever reads what the worker says)

    def _message(self, worker: Member, child: WorkerProcess, message: Message) -> None:
        if isinstance(message, Results):
            self._results(worker, child, message)
        elif isinstance(message, Event):
            self._batches.call_back(self._on_event, message.kind, message.payload)
        elif isinstance(message, HostCall):
            self._supervisor.asks(worker)
            self._host_calls.accept(child, message)
        elif isinstance(message, HostCancel):
            self._host_calls.cancel(child, message.call)
        elif isinstance(message, Recalled):
            self._recalled(worker, child, message)
        elif isinstance(message, Copied):
            child.tell_copied()
        else:
            raise ValueError(f"{type(message).__name__} is not for the server")

    def _recalled(self, worker: Member, child: WorkerProcess, recalled: Recalled) -> None:
        batch = self._batches.running.get(recalled.batch)
        if batch is None or batch.process is not child:
            raise ValueError(f"gives batch {recalled.batch} back, which it does not have")
        self._delivery.recalled(worker, batch)

    def _results(self, worker: Member, child: WorkerProcess, results: Results) -> None:
        if (batch := self._batches.running.get(results.batch)) is None:
            raise ValueError(f"answers of batch {results.batch}, which no worker has")
        if self.config.response_timeout_s == AT_ONCE:
            return  # whatever comes is too late: the worker is about to be replaced
        answers = batch.answers(results, child.fetch)
        took = batch.note_times(results) if results.done else 0.0
        if self._advance(worker, batch, results, took):
            if results.done:
                self._batches.call_back(self._on_over, batch.rows, took)
            else:
                self._batches.call_back(self._on_returned, batch.calls)
            self._delivery.go_on(worker)
        if failures := batch.give(answers, child, results.done):
            self._log_failures(child.name, failures)
        child.copied(results)
        if results.done:
            if not batch.is_answered():
                batch.fail(JitneyError(f"worker '{child.name}' left the request without an answer"))
            self._batches.report(batch, child.name, results)

    def _advance(self, worker: Member, batch: RunningCalls, results: Results, took: float) -> bool:
        """How far the batch is; returns whether the worker may have one batch more, or goes."""
        now = time.monotonic()
        with self._lock:
            if not worker.holds(batch):
                raise ValueError(f"answers of batch {batch.number}, which it does not have")
            if results.done:
                trip = None if worker.given == inf else now - worker.given - took
                self._supervisor.foresight.learn(batch.rows, took, trip)
                self._roster.release(worker, batch, now)
                return True
            self._roster.progress(worker, batch, now)
            return results.returned and self._roster.returned(worker, batch, now)

    def _log_failures(self, worker: str, failures: Sequence[tuple[Failure, str]]) -> None:
        """An error is logged once, with the ids of all requests that it failed."""
        for error in [error for error, _ in failures if error.detail]:
            ids = [name for other, name in failures if other.message == error.message]
            self._log.error("%s: %s\n%s", worker, error.message, error.detail, extra=about(request_ids=ids))

    # ---- what the supervisor tells

    def _ready(self) -> None:
        self._delivery.serve_waiting()
        self._batches.call_back(self._on_idle)
        self._batches.call_back(self._on_state)

    def _late(self, worker: Member, child: WorkerProcess, batches: list[RunningCalls]) -> None:
        """Requests that were left open and gave no sign of life: they fail, and the worker is told that nobody waits."""
        error = self._supervisor.timeout(child)
        for batch in batches:
            batch.fail(error)
            for index in range(len(batch.live)):
                batch.withdraw(child, index)

    def _end(self, child: WorkerProcess | None, held: Held[RunningCalls]) -> None:
        """A process ended, or could not be started."""
        if child is not None:
            self._host_calls.forget(child)
            self.rests.forget(child)
            self._delivery.lost(child, held)
        self._delivery.serve_waiting()
        self._delivery.give_up_without_workers()
        self._batches.call_back(self._on_state)
