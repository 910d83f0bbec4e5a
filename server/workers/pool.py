"""`Pool`: the worker processes of one model version, their batches and their replacements.

    pool = Pool(config, arena, on_idle=dispatcher.wake)
    pool.start(2)                               begins to start workers
    pool.wait_ready(60)                         LoadFailed with the model's own reason
    while pool.idle(): pool.execute(calls)      answers arrive on the calls
    pool.scale(4)
    pool.stop(30)

Threads: any may call the methods. Each process has a reading thread (`child.Child`), which answers calls and runs `on_idle`,
`on_batch`, `on_event`; the supervisor starts processes and ends those that take too long. Who is in which state, and what is
due when, the pure `roster` decides under the one lock, which is never held while anything is sent, read or called back.
"""

from __future__ import annotations

import collections
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ...backends.base import Instance, Response
from ..call import Call
from ..errors import Draining, JitneyError, LoadFailed, NoWorkers, WorkerDied, WorkerTimeout
from ..repository.config import ModelConfig
from . import cores, placement
from .arena import Arena
from .batch import Batch, BatchReport
from .child import Child
from .hosting import HostDesk, HostServer
from .messages import Cancel, Event, HostCall, HostCancel, Loaded, Message, Results, Stop
from .roster import Alarm, Roster, State, Worker
from .status import WorkerStatus, status

__all__ = ["BatchReport", "HostServer", "Pool", "WorkerStatus"]

log = logging.getLogger(__name__)

Member = Worker[Child, Batch]


class Pool:
    """Workers of one model version. See the module's page for the order of calls and the threads.

    on_idle   a worker became idle; may call `execute`
    on_batch  a batch is over, all its calls are answered; called once for every batch, also where its worker died
    on_event  `(kind, payload)` that a model emitted
    on_state  a worker became ready, or is no longer
    host      answers what models ask of the server
    factory   `module:function` that makes the backend, "" = the package's own

    Callbacks must not call `stop`, nor wait for answers of this pool.
    """

    def __init__(
        self,
        config: ModelConfig,
        arena: Arena,
        *,
        on_idle: Callable[[], None],
        on_batch: Callable[[BatchReport], None] | None = None,
        host: HostServer | None = None,
        factory: str = "",
        on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
        on_state: Callable[[], None] | None = None,
        gpus: Sequence[int] | None = None,
    ) -> None:
        self.config, self._arena, self._factory = config, arena, factory
        self._on_idle, self._on_batch, self._on_event, self._on_state = on_idle, on_batch, on_event, on_state
        self._desk = HostDesk(host, config.name)
        self._gpus = gpus
        self._log = logging.getLogger(f"jitney.model.{config.name}")
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._alarm = threading.Condition(self._lock)  # the supervisor sleeps here
        self._changed = threading.Condition(self._lock)  # `wait_ready` and `stop` sleep here
        self._roster: Roster[Child, Batch] = Roster(
            startup_s=config.startup_timeout_s,
            response_s=config.response_timeout_s,
            give_up_after_s=config.max_retry_timeout_s,
        )
        self._waiting: collections.deque[Batch] = collections.deque()  # batches whose worker died in the very moment
        self._buried: list[Child] = []
        self._sleeps_until = -math.inf
        self._supervisor: threading.Thread | None = None
        self._closing = False
        self.failure: LoadFailed | None = None  #: why a worker could not load; None again once one could

    # ---- size

    def start(self, count: int, *, retry: bool = False) -> None:
        """Begins to start workers and returns at once.

        A model that no worker has ever loaded is not tried again, unless `retry` (TorchServe's way to register).
        """
        self._roster.retry = retry
        self.scale(count)

    def scale(self, count: int) -> None:
        """Begins to add workers, or lets the last ones go, each after its batch. FAILED workers get another chance.

        InvalidConfig where an instance has no place on this machine; ValueError for a negative count.
        """
        if count < 0:
            raise ValueError(f"number of workers must not be negative, got {count}")
        gpus = cores.gpus() if self._gpus is None else self._gpus
        omp = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(omp) if omp.isdecimal() else 0
        place = partial(placement.instance, self.config, total=count, gpus=gpus, cores=cores.usable_cores(), threads=threads)
        places = [place(n) for n in range(count)]  # all of them are checked before anything changes
        self._resize(count, places)

    def _resize(self, count: int, places: Sequence[Instance]) -> None:
        with self._lock:
            if self._closing and count:
                raise Draining(f"model '{self.config.name}' is stopping")
            dismissed = self._roster.resize(count, time.monotonic(), places.__getitem__)
            if self._supervisor is None and count:
                name = f"jitney-{self.config.name}-supervisor"
                self._supervisor = threading.Thread(target=self._supervise, name=name, daemon=True)
                self._supervisor.start()
            self._notify()
        for worker in dismissed:
            self._dismiss(worker)
        self._give_up_hopeless()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until all wanted workers are ready.

        LoadFailed as soon as one could not load, TimeoutError after `timeout` seconds, Draining if the pool is stopped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._closing or self._roster.ready() < self._roster.target:
                if self._closing:
                    raise Draining(f"model '{self.config.name}' is stopping")
                refused = self._roster.refused()
                if refused is not None:
                    raise self.failure or LoadFailed(self._text(refused, refused.error))
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    have, want = self._roster.ready(), self._roster.target
                    raise TimeoutError(f"model '{self.config.name}': {have} of {want} workers ready after {timeout:g} s")
                self._changed.wait(remaining)

    def stop(self, timeout: float, drain: bool = True) -> None:
        """Ends all workers; returns when no process and no thread is left. May be called again.

        With `drain`, batches are finished first; calls that are not answered after `timeout` seconds fail with Draining.
        """
        deadline = time.monotonic() + (timeout if drain else 0.0)
        with self._lock:
            self._closing = True
        self._resize(0, ())  # also wakes those who wait
        with self._lock:
            while self._roster.processes() and (remaining := deadline - time.monotonic()) > 0:
                self._changed.wait(remaining)
            left, waiting = self._roster.processes(), list(self._waiting)
            self._waiting.clear()
        cause = Draining(f"model '{self.config.name}' was stopped before it answered")
        for child in left:
            child.kill(cause)
        for batch in waiting:
            self._fail(batch, cause)
        if self._supervisor is not None:
            self._supervisor.join()
        self._desk.close()

    # ---- figures

    def idle(self) -> int:
        """Workers that could take a batch now. Takes no lock."""
        return max(0, len(self._roster.idle) - len(self._waiting))

    def ready(self) -> int:
        """Workers that have loaded the model, busy or not."""
        with self._lock:
            return self._roster.ready()

    def healthy(self) -> int:
        """Workers that are ready, starting or waiting to be started again; those given up do not count."""
        with self._lock:
            return sum(worker.state is not State.FAILED for worker in self._roster.members)

    def target(self) -> int:
        """Workers that should be there."""
        with self._lock:
            return self._roster.target

    def workers(self) -> list[WorkerStatus]:
        """All workers, those that are leaving last."""
        with self._lock:
            found = [*self._roster.members, *self._roster.leaving]
        return [status(worker) for worker in found]

    # ---- batches

    def execute(self, calls: Sequence[Call]) -> None:
        """Hands one batch to an idle worker; answers and errors arrive on the calls, then `on_batch` is called.

        Where no worker is idle (it may have died since the caller looked) the batch goes to the next that is.
        `call.slots` are the slots of the request's tensors, then its parts, or empty: then the data goes with the message.
        """
        batch = Batch(next(self._numbers), calls)
        if not batch.live:
            self._report(batch.report())
            return
        with self._lock:
            worker = None if self._waiting else self._roster.take(batch, time.monotonic())
            if worker is None:
                self._waiting.append(batch)
        if worker is None:
            self._serve_waiting()
            self._give_up_hopeless()
        else:
            self._hand_over(worker, batch)

    def cancel(self, call: Call) -> None:
        """Tells the worker that holds this call, if any does, that nobody waits for it (`Request.is_cancelled`)."""
        with self._lock:
            workers = [*self._roster.members, *self._roster.leaving]
            held = [(w.child, w.batch) for w in workers if w.child and w.batch and call in w.batch.live]
        for child, batch in held:
            self._withdraw(child, batch, batch.live.index(call))

    def _hand_over(self, worker: Member, batch: Batch) -> None:
        now = time.monotonic_ns()
        for call in batch.live:
            call.times.dispatched = call.times.dispatched or now
            call.batch_rows = call.batch_rows or batch.rows
        child = worker.child
        try:
            if child is None:
                raise ConnectionError("the worker is gone")
            child.send(batch.message)
        except OSError:
            self._take_back(worker, batch)
        except ValueError as error:  # BadFrame: more than fits
            with self._lock:
                self._roster.release(worker, time.monotonic())
            self._fail(batch, JitneyError(f"the batch cannot be handed to a worker: {error}"))
        else:
            if worker.alarm is not None and worker.alarm < self._sleeps_until:
                with self._lock:
                    self._alarm.notify()

    def _take_back(self, worker: Member, batch: Batch) -> None:
        """The worker died before it got the batch whole, so it has not begun: another may run it."""
        child = worker.child
        with self._lock:
            ours = worker.batch is batch
            if ours:
                worker.batch = None
                self._waiting.appendleft(batch)
        if child is not None:
            child.kill()
        if ours:
            self._serve_waiting()
            self._give_up_hopeless()

    def _serve_waiting(self) -> None:
        while True:
            with self._lock:
                worker = self._roster.take(self._waiting[0], time.monotonic()) if self._waiting else None
                if worker is None:
                    return
                batch = self._waiting.popleft()
            self._hand_over(worker, batch)

    def _give_up_hopeless(self) -> None:
        """Fails waiting batches that no worker will ever take."""
        with self._lock:
            if not self._waiting or not self._roster.hopeless():
                return
            batches, closing = list(self._waiting), self._closing
            self._waiting.clear()
        name = self.config.name
        error = Draining(f"model '{name}' is stopping") if closing else NoWorkers(f"model '{name}' has no worker")
        for batch in batches:
            self._fail(batch, error)

    def _fail(self, batch: Batch, error: JitneyError, worker: str = "") -> None:
        batch.fail(error)
        self._report(batch.report(worker))

    def _withdraw(self, child: Child, batch: Batch, index: int) -> None:
        if index not in batch.cancelled:
            batch.cancelled.add(index)
            try:
                child.send(Cancel(batch.number, index))
            except OSError:
                pass  # the worker is gone, which is all the same to this call

    # ---- messages (reading thread of the worker)

    def _message(self, worker: Member, child: Child, message: Message) -> None:
        if isinstance(message, Results):
            self._results(worker, child, message)
        elif isinstance(message, Event):
            if self._on_event is not None:
                self._call(self._on_event, message.kind, message.payload)
        elif isinstance(message, HostCall):
            self._desk.accept(child, message)
        elif isinstance(message, HostCancel):
            self._desk.cancel(child, message.call)
        elif isinstance(message, Loaded):
            self._loaded(worker, child, message)
        else:
            raise ValueError(f"{type(message).__name__} is not for the server")

    def _results(self, worker: Member, child: Child, results: Results) -> None:
        batch = worker.batch
        if batch is None:
            raise ValueError("answers without a batch")
        answers = list(batch.answers(results, child.fetch))
        if results.done:
            child.trim()
            self._times(batch, results)
            self._release(worker, child)
        else:
            with self._lock:
                self._roster.progress(worker, time.monotonic())
        for index, response in answers:
            self._answer(child, batch, index, response)
        if results.done:
            batch.fail(JitneyError(f"worker '{child.name}' left the request without an answer"))
            self._report(batch.report(child.name, results))

    def _answer(self, child: Child, batch: Batch, index: int, response: Response) -> None:
        if response.error is not None and response.error.detail:
            self._log.error("%s: %s\n%s", child.name, response.error.message, response.error.detail)
        call = batch.live[index]
        taken = call.answer(response)
        if not taken and not response.final:
            self._withdraw(child, batch, index)

    def _times(self, batch: Batch, results: Results) -> None:
        for call in batch.live:
            call.times.compute_input = results.input_ns
            call.times.compute_infer = results.infer_ns
            call.times.compute_output = results.output_ns

    def _release(self, worker: Member, child: Child) -> None:
        """The worker's batch is over and copied out: it gets the next one, or is idle, or goes."""
        following = None
        with self._lock:
            self._roster.release(worker, time.monotonic())
            stopping = worker.leaving
            if self._waiting and self._closing:  # nobody else will come: what was accepted is finished
                following = self._waiting.popleft()
                self._roster.assign(worker, following, time.monotonic())
        if following is not None:
            self._hand_over(worker, following)
        elif stopping:
            self._dismiss(worker)
        else:
            self._serve_waiting()
            self._call(self._on_idle)

    def _loaded(self, worker: Member, child: Child, message: Loaded) -> None:
        if message.reason:
            if message.detail:
                self._log.error("%s: could not load\n%s", child.name, message.detail)
            child.refusal = message
            return  # the process ends by itself; its end decides what follows
        child.loaded = True
        with self._lock:
            self._roster.loaded(worker, time.monotonic())
            self.failure = None
            self._notify()
        self._log.info("%s: ready (pid %d, %.1f s)", child.name, child.pid, time.time() - child.started)
        self._serve_waiting()
        self._call(self._on_idle)
        self._call(self._on_state)

    def _gone(self, worker: Member, child: Child) -> None:
        """The process ended: its calls fail now, and it is replaced unless it was told to go."""
        self._desk.forget(child)
        refusal, load_failed = child.refusal, not child.loaded
        reason = refusal.reason if refusal else str(child.cause or child.ending())
        with self._lock:
            expected = worker.leaving
            batch = self._roster.gone(worker, time.monotonic(), reason, load_failed)
            if load_failed and not expected:
                memory = refusal is not None and refusal.out_of_memory
                self.failure = LoadFailed(self._text(worker, reason), memory)
            self._buried.append(child)
            self._notify()
        if not expected:
            what = "could not load" if load_failed else "ended"
            self._log.error("%s: %s: %s; now %s", child.name, what, reason, worker.state)
        if batch is not None:
            self._fail(batch, self._death(child), child.name)
        self._give_up_hopeless()
        self._call(self._on_state)

    def _death(self, child: Child) -> JitneyError:
        if isinstance(child.cause, WorkerDied | Draining):
            return child.cause
        ending = f"{child.cause} ({child.ending()})" if child.cause else child.ending()
        return WorkerDied(f"worker '{child.name}' of model '{self.config.name}' died: {ending}", child.exit_code)

    # ---- supervisor

    def _supervise(self) -> None:
        while True:
            with self._lock:
                due = self._roster.due(time.monotonic())
                buried, self._buried = self._buried, []
                if not due and not buried:
                    if self._closing and not self._roster.processes():
                        return
                    self._sleep()
                    continue
            for child in buried:
                child.join()
            for worker, alarm in due:
                self._ring(worker, alarm)

    def _sleep(self) -> None:
        wake_at = self._roster.wake_at()
        self._sleeps_until = math.inf if wake_at is None else wake_at
        self._alarm.wait(None if wake_at is None else max(0.0, wake_at - time.monotonic()))
        self._sleeps_until = -math.inf

    def _ring(self, worker: Member, alarm: Alarm) -> None:
        child, name = worker.child, self.config.name
        if alarm is Alarm.START:
            self._launch(worker)
        elif child is None:
            return  # it ended a moment ago
        elif alarm is Alarm.ANSWERING:
            text = f"worker '{child.name}' of model '{name}' did not answer within {self.config.response_timeout_s:g} s"
            child.kill(WorkerTimeout(text, 137))
        elif alarm is Alarm.LOADING:
            child.kill(LoadFailed(f"not loaded within {self.config.startup_timeout_s:g} s"))
        else:
            log.warning("worker '%s' did not end when it was asked to, and is killed", child.name)
            child.kill()

    def _launch(self, worker: Member) -> None:
        if worker.leaving:
            return
        try:
            child = Child(
                self.config,
                worker.instance,
                self._arena,
                self._factory,
                partial(self._message, worker),
                partial(self._gone, worker),
            )
        except (OSError, ValueError) as error:
            reason = f"its process cannot be started: {error}"
            log.error("worker '%s': %s", worker.instance.name, reason)
            with self._lock:
                self._roster.gone(worker, time.monotonic(), reason, load_failed=True)
                self.failure = LoadFailed(self._text(worker, reason))
                self._notify()
            self._call(self._on_state)
            return
        with self._lock:
            wanted = self._roster.started(worker, child, time.monotonic())
        child.begin()
        if not wanted:
            child.kill()

    # ---- any thread

    def _dismiss(self, worker: Member) -> None:
        """Ends a worker without a batch: politely, or at once where it has not even loaded."""
        child = worker.child
        if child is None:
            return
        if not child.loaded:
            child.kill()
            return
        try:
            child.send(Stop())
        except OSError:
            pass  # gone already

    def _report(self, report: BatchReport) -> None:
        if self._on_batch is not None:
            self._call(self._on_batch, report)

    def _notify(self) -> None:
        self._alarm.notify_all()
        self._changed.notify_all()

    def _text(self, worker: Member, reason: str) -> str:
        return f"model '{self.config.name}' could not be loaded by worker '{worker.instance.name}': {reason}"

    def _call(self, function: Callable[..., None] | None, *arguments: object) -> None:
        """Calls back; what goes wrong there is logged and must not keep calls from being answered."""
        if function is None:
            return
        try:
            function(*arguments)
        except Exception:
            log.exception("model '%s': %r failed", self.config.name, function)
