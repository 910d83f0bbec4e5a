"""`Pool`: the worker processes of one model version, their batches and their replacements.

    pool = Pool(config, arena, on_idle=dispatcher.wake)
    pool.start(2)                               begins to start workers
    pool.wait_ready(60)                         LoadFailed with the model's own reason
    while pool.idle(): pool.execute(calls)      answers arrive on the calls
    while pool.ahead(): pool.execute(calls)     the same for full batches, for busy workers
    pool.scale(4)
    pool.stop(30)

Threads: any may call the methods. What a process says is read by threads that all pools share (`worker_process.WorkerProcess`
says which); they answer calls and run `on_idle`, `on_batch`, `on_event`. The `supervisor` starts processes and ends those that
take too long. They share one lock, which is never held while anything is sent, read or called back. The file is long because a
batch's whole way should be read in one place.
"""

from __future__ import annotations

import collections
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...core.call import Call
from ...core.errors import Draining, HoldsTooMuch, JitneyError, LoadFailed, NoWorkers, WorkerDied
from ...core.model_config import AT_ONCE, ModelConfig
from ...core.request import Failure, Response
from ..ipc.arena import Arena
from ..ipc.io_context import IoContext
from ..ipc.messages import Message
from ..process import cores
from ..process.log_format import about
from . import capacity, placement
from .host_calls import HostCalls, HostServer
from .messages import Cancel, Copied, Event, HostCall, HostCancel, Results
from .roster import Held, WorkerState
from .running_calls import Again, BatchReport, RunningCalls
from .shared_process import Groups
from .status import WorkerStatus, status
from .supervisor import Member, Supervisor
from .worker_process import WorkerProcess

__all__ = ["BatchReport", "HostServer", "Pool", "Seat", "WorkerStatus"]

log = logging.getLogger(__name__)

#: Workers that the requests of one batch may end when they run again, each alone.
_MOST_CRASHES = 2


class Seat(NamedTuple):
    """One life of one worker: a worker that was replaced is in another seat, also where its process is the same.

    sharers  how many workers live in the process
    """

    worker: int
    pid: int
    serial: int
    sharers: int


class Pool:
    """Workers of one model version. See the module's page for the order of calls and the threads.

    on_idle   a worker became idle, or may be sent one batch more ahead; may call `execute`
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
        self._on_idle, self._on_batch, self._on_event, self._on_state = on_idle, on_batch, on_event, on_state
        self._on_returned, self._on_fatal = on_returned, on_fatal
        self._host_calls = HostCalls(host, config.name)
        self._gpus = gpus
        self._log = logging.getLogger(f"jitney.model.{config.name}")
        self._numbers = itertools.count(1)
        self._supervisor = Supervisor(
            config,
            arena,
            factory,
            on_message=self._message,
            on_ready=self._ready,
            on_end=self._end,
            on_late=self._late,
            excused=self._host_calls.excused,
            io=io or IoContext(),
            groups=groups or Groups(),
        )
        self._lock, self._roster = self._supervisor.lock, self._supervisor.roster
        self._running: dict[int, RunningCalls] = {}  # by their number, until they are reported
        self._waiting: collections.deque[RunningCalls] = collections.deque()  # batches whose worker died in the very moment

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
        self._give_up_without_workers()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until all wanted workers are ready.

        LoadFailed as soon as one could not load, TimeoutError after `timeout` seconds, Draining if the pool is stopped.
        """
        self._supervisor.wait_ready(timeout)

    def stop(self, timeout: float, drain: bool = True) -> None:
        """Ends all workers; returns when no process and no thread is left. May be called again.

        With `drain`, batches are finished first; calls that are not answered after `timeout` seconds fail with Draining.
        """
        self._supervisor.close()
        self._give_up_without_workers()
        left = self._supervisor.wait_ended(time.monotonic() + (timeout if drain else 0.0))
        cause = Draining(f"model '{self.config.name}' was stopped before it answered")
        for child in left:
            child.kill(cause)
        self._supervisor.join()
        self._give_up_without_workers()
        self._host_calls.close()

    @property
    def failure(self) -> LoadFailed | None:
        """Why a worker could not load, lately; None once one could."""
        return self._supervisor.failure

    def no_workers(self) -> NoWorkers:
        """What a request is told that no worker will take, with the reason where there is one."""
        if not self.target():
            return NoWorkers(f"model '{self.config.name}' has no workers")
        why = self.failure or next((worker.error for worker in self._roster.members if worker.error), "all were given up")
        return NoWorkers(f"model '{self.config.name}' has no healthy worker: {why}")

    # ---- figures

    def idle(self) -> int:
        """Workers that could take a batch now. Takes no lock."""
        return max(0, len(self._roster.idle) - len(self._waiting))

    def ahead(self) -> int:
        """Full batches that could be sent to busy workers now, beside those for idle ones. Takes no lock."""
        return 0 if self._waiting else self._roster.ahead()

    def busy(self) -> bool:
        """Whether a worker holds a batch: one that waits, runs, or was left open."""
        with self._lock:
            held = any(worker.unfinished for worker in (*self._roster.members, *self._roster.leaving))
            return held or bool(self._waiting)

    def ready(self) -> int:
        """Workers that have loaded the model, busy or not. Takes no lock."""
        return self._roster.ready()

    def healthy(self) -> int:
        """Workers that are ready, starting or waiting to be started again; those given up do not count."""
        with self._lock:
            return sum(worker.state is not WorkerState.FAILED for worker in self._roster.members)

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
            loaded = [w for w in self._roster.members if w.state in (WorkerState.READY, WorkerState.BUSY)]
            children = [(worker.id, worker.child) for worker in loaded if worker.child is not None]
            return [Seat(number, child.pid, child.serial, child.sharers) for number, child in children]

    # ---- batches

    def execute(self, calls: Sequence[Call]) -> None:
        """Hands one batch to an idle worker, or ahead to a busy one; answers and errors arrive on the calls, then `on_batch` is
        called.

        Where no worker may have it (one may have died since the caller looked) the batch goes to the next that may.
        `call.slots` are the slots of the request's tensors, then its parts, or empty: then the data goes with the message.
        """
        batch = self._begin(calls)
        if not batch.live:
            self._report(batch)
            return
        with self._lock:
            worker = None if self._waiting else self._take(batch)
            if worker is None:
                self._waiting.append(batch)
        if worker is None:
            self._serve_waiting()
            self._give_up_without_workers()
        else:
            self._hand_over(worker, batch)

    def _begin(self, calls: Sequence[Call], pinned: bool = False, again: Again | None = None) -> RunningCalls:
        batch = RunningCalls(next(self._numbers), calls, pinned, again)
        self._running[batch.number] = batch
        return batch

    def _take(self, batch: RunningCalls) -> Member | None:
        now = time.monotonic()
        worker = self._roster.take(batch, now)
        if worker is None and batch.is_light and (worker := self._roster.take_ahead(batch, now)) is not None:
            batch.follows = all(other.sent for other in worker.batches() if other is not batch)
        batch.process = worker and worker.child
        return worker

    def execute_on(self, seat: Seat, calls: Sequence[Call]) -> None:
        """Hands one batch to this worker and to no other, as `execute` does.

        Where it is gone or executes another one the calls fail with WorkerDied.
        """
        batch = self._begin(calls, pinned=True)
        if not batch.live:
            self._report(batch)
            return
        with self._lock:
            here = any(w.child and w.child.serial == seat.serial for w in self._roster.members)
            worker = self._roster.take_named(seat.worker, batch, time.monotonic()) if here else None
            batch.process = worker and worker.child
        if worker is None:
            self._fail(batch, WorkerDied(f"the worker of model '{self.config.name}' that held the sequence is gone"))
        else:
            self._hand_over(worker, batch)

    def cancel(self, call: Call) -> None:
        """Tells the worker that holds this call, if any does, that its client has gone (`Request.is_cancelled`)."""
        with self._lock:
            workers = [*self._roster.members, *self._roster.leaving]
            held = [(w.child, batch) for w in workers if w.child for batch in w.batches() if call in batch.live]
        for child, batch in held:
            self._withdraw(child, batch, batch.live.index(call))

    def _hand_over(self, worker: Member, batch: RunningCalls) -> None:
        self._note_start(batch)
        child: WorkerProcess | None = batch.process
        try:
            if child is None:
                raise ConnectionError("the worker is gone")
            child.execute(batch.message)
        except OSError:
            self._take_back(worker, batch)
        except ValueError as error:  # BadFrame: more than fits
            if self._release(worker, batch):
                self._fail(batch, JitneyError(f"the batch cannot be handed to a worker: {error}"))
        else:
            batch.sent = True
            self._supervisor.watch()

    @staticmethod
    def _note_start(batch: RunningCalls) -> None:
        """For calls whose deployment has not noted it."""
        if not batch.live[0].times.dispatched:
            now = time.monotonic_ns()
            for call in batch.live:
                call.times.dispatched, call.batch_rows = now, batch.rows

    def _take_back(self, worker: Member, batch: RunningCalls) -> None:
        """The worker died before it got the batch whole, so it has not begun: another may run it, unless it is pinned."""
        child: WorkerProcess | None = batch.process
        with self._lock:
            ours = self._roster.take_back(worker, batch)
            if ours and not batch.pinned:
                self._waiting.appendleft(batch)
        if child is not None:
            child.kill()
        if ours and batch.pinned:
            self._fail(batch, WorkerDied(f"the worker of model '{self.config.name}' that held the sequence died"))
        elif ours:
            self._serve_waiting()
            self._give_up_without_workers()

    def _serve_waiting(self) -> None:
        if not self._waiting:  # who adds one serves it
            return
        self._drop_answered()
        while True:
            with self._lock:
                worker = self._take(self._waiting[0]) if self._waiting else None
                if worker is None:
                    return
                batch = self._waiting.popleft()
            self._hand_over(worker, batch)

    def _drop_answered(self) -> None:
        """Takes out what waits for a worker and has none to answer any more: its clients have left."""
        with self._lock:
            over = [batch for batch in self._waiting if batch.is_answered()]
            for batch in over:
                self._waiting.remove(batch)
        for batch in over:
            self._report(batch)

    def _give_up_without_workers(self) -> None:
        """Fails waiting batches that no worker will ever take."""
        with self._lock:
            if not self._waiting or not self._roster.no_workers_left():
                return
            batches, closing = list(self._waiting), self._supervisor.closing
            self._waiting.clear()
        name = self.config.name
        error = Draining(f"model '{name}' is stopping") if closing else self.no_workers()
        for batch in batches:
            self._fail(batch, error)

    def _fail(self, batch: RunningCalls, error: JitneyError, worker: str = "") -> None:
        batch.fail(error)
        self._report(batch, worker)

    def _withdraw(self, child: WorkerProcess, batch: RunningCalls, index: int) -> None:
        if index not in batch.cancelled:
            batch.cancelled.add(index)
            try:
                child.send(Cancel(batch.number, index))
            except OSError:
                pass  # the worker is gone, which is all the same to this call

    # ---- messages (whoever reads what the worker says)

    def _message(self, worker: Member, child: WorkerProcess, message: Message) -> None:
        if isinstance(message, Results):
            self._results(worker, child, message)
        elif isinstance(message, Event):
            if self._on_event is not None:
                self._call(self._on_event, message.kind, message.payload)
        elif isinstance(message, HostCall):
            self._host_calls.accept(child, message)
        elif isinstance(message, HostCancel):
            self._host_calls.cancel(child, message.call)
        elif isinstance(message, Copied):
            child.tell_copied()
        else:
            raise ValueError(f"{type(message).__name__} is not for the server")

    def _results(self, worker: Member, child: WorkerProcess, results: Results) -> None:
        batch = self._running.get(results.batch)
        if batch is None:
            raise ValueError(f"answers of batch {results.batch}, which no worker has")
        if self.config.response_timeout_s == AT_ONCE:
            return  # whatever comes is too late: the worker is about to be replaced
        answers = batch.answers(results, child.fetch)
        if results.done:
            self._times(batch, results)
        if self._advance(worker, batch, results):
            if not results.done:
                self._call(self._on_returned, batch.calls)
            self._next(worker)
        self._answer(child, batch, results, answers)
        child.copied(results)
        if results.done:
            if not batch.is_answered():
                batch.fail(JitneyError(f"worker '{child.name}' left the request without an answer"))
            self._report(batch, child.name, results)

    def _answer(
        self,
        child: WorkerProcess,
        batch: RunningCalls,
        results: Results,
        answers: Iterable[tuple[int, Response | HoldsTooMuch]],
    ) -> None:
        """Gives the calls their answers; an error is logged once, with the ids of all requests that it failed."""
        failures: list[tuple[Failure, str]] = []
        for index, response in answers:
            call = batch.live[index]
            if isinstance(response, HoldsTooMuch):
                if call.fail(response) and not results.done:
                    self._withdraw(child, batch, index)
                continue
            if response.error is not None:
                failures.append((response.error, call.request.id))
            if not response.final:
                batch.streamed.add(index)
            if not call.answer(response) and not response.final:
                self._withdraw(child, batch, index)
        for error in [error for error, _ in failures if error.detail]:
            ids = [name for other, name in failures if other.message == error.message]
            self._log.error("%s: %s\n%s", child.name, error.message, error.detail, extra=about(request_ids=ids))

    def _times(self, batch: RunningCalls, results: Results) -> None:
        before, model, after = results.input_ns, results.infer_ns, results.output_ns
        for call in batch.live:
            times = call.times
            times.compute_input, times.compute_infer, times.compute_output = before, model, after

    def _advance(self, worker: Member, batch: RunningCalls, results: Results) -> bool:
        """How far the batch is; returns whether the worker may have one batch more, or goes."""
        now = time.monotonic()
        with self._lock:
            if not worker.holds(batch):
                raise ValueError(f"answers of batch {batch.number}, which it does not have")
            if results.done:
                self._roster.release(worker, batch, now)
                return True
            self._roster.progress(worker, batch, now)
            return results.returned and self._roster.returned(worker, batch, now)

    def _release(self, worker: Member, batch: RunningCalls) -> bool:
        """Takes back a batch that the worker did not get; false where its process ended a moment ago, and failed it."""
        with self._lock:
            if not worker.holds(batch):
                return False
            self._roster.release(worker, batch, time.monotonic())
        self._next(worker)
        return True

    def _next(self, worker: Member) -> None:
        """The worker may have one batch more, or goes."""
        following = None
        with self._lock:
            leaving = worker.leaving
            if leaving and self._waiting and self._supervisor.closing and worker.executing is None:
                following = self._waiting.popleft()  # no other worker will come: what was accepted is finished
                self._roster.assign(worker, following, time.monotonic())
                following.process = worker.child
            over = leaving and not worker.unfinished
        if following is not None:
            self._hand_over(worker, following)
        elif over:
            self._supervisor.dismiss(worker)
        elif not leaving:
            self._serve_waiting()
            self._call(self._on_idle)

    def _ready(self) -> None:
        self._serve_waiting()
        self._call(self._on_idle)
        self._call(self._on_state)

    def _late(self, worker: Member, child: WorkerProcess, batches: list[RunningCalls]) -> None:
        """Requests that were left open and gave no sign of life: they fail, and the worker is told that nobody waits."""
        error = self._supervisor.timeout(child)
        for batch in batches:
            batch.fail(error)
            for index in range(len(batch.live)):
                self._withdraw(child, batch, index)

    def _end(self, child: WorkerProcess | None, held: Held[RunningCalls]) -> None:
        """A process ended: what it had begun fails now, or runs again; what only waited in it goes to another."""
        if child is not None:
            self._host_calls.forget(child)
            begun = [*held.begun, *(batch for batch in held.untouched if not batch.follows)]
            alone = len(begun) == 1 and len(begun[0].live) == 1
            for batch in begun:
                self._crashed(batch, child, alone)
        again = [batch for batch in held.untouched if batch.follows]
        for batch in again:
            batch.sent = batch.follows = False
        with self._lock:
            self._waiting.extendleft(reversed(again))
        self._serve_waiting()
        self._give_up_without_workers()
        self._call(self._on_state)

    def _crashed(self, batch: RunningCalls, child: WorkerProcess, alone: bool) -> None:
        """Its worker ended while it ran: it fails, or its requests run once more, each alone, so that the bad one fails alone.

        `alone`: one request was all that the worker had begun.
        """
        death = child.death()
        if batch.again is not None and not child.innocent:
            self._crashed_again(batch.again, death)
        if not self._runs_again(batch, death, alone and child.crashed):
            if alone and child.crashed:
                self._call(self._on_fatal, batch.live[0])
            self._fail(batch, death, child.name)
            return
        again = Again()
        each = [self._begin([call], again=again) for call in batch.untouched()]
        moved = {id(call) for one in each for call in one.calls}
        batch.calls = [call for call in batch.calls if id(call) not in moved]
        log.warning("%s; its %d requests run again, each alone", death, len(each))
        for call in batch.calls:
            call.fail(death)
        if batch.calls:
            self._report(batch, child.name)
        else:
            del self._running[batch.number]
        with self._lock:
            self._waiting.extend(one for one in each if one.live)
        for one in [one for one in each if not one.live]:  # its client has left meanwhile
            self._report(one)

    def _crashed_again(self, again: Again, death: JitneyError) -> None:
        """One of a batch's requests has ended a worker by itself. After `_MOST_CRASHES` of them the rest fails: each would cost
        everybody another start of the worker."""
        again.crashes += 1
        if again.crashes < _MOST_CRASHES:
            return
        with self._lock:
            rest = [batch for batch in self._waiting if batch.again is again]
            for batch in rest:
                self._waiting.remove(batch)
        for batch in rest:
            self._fail(batch, death)

    def _runs_again(self, batch: RunningCalls, death: JitneyError, to_blame: bool) -> bool:
        """Not a second time, nor what hung or is to blame, nor where no worker follows. The model may have changed the data of a
        lone request in shared memory; those of several are copied before it sees them."""
        if not self.config.retry_after_crash or batch.again is not None or batch.pinned or type(death) is not WorkerDied:
            return False
        if to_blame or not batch.untouched() or (len(batch.live) == 1 and batch.live[0].slots):
            return False
        return not self._supervisor.closing and self.target() > 0

    # ---- any thread

    def _report(self, batch: RunningCalls, worker: str = "", results: Results | None = None) -> None:
        """The batch is over, by the message `results` where there is one."""
        self._running.pop(batch.number, None)
        if self._on_batch is not None:
            self._call(self._on_batch, batch.report(worker, results))

    def _call(self, function: Callable[..., None] | None, *arguments: object) -> None:
        """Calls back; what goes wrong there is logged and must not keep calls from being answered."""
        if function is None:
            return
        try:
            function(*arguments)
        except Exception:
            log.exception("model '%s': %r failed", self.config.name, function)
