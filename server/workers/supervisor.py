"""`Supervisor`: starts a model's worker processes, ends those that take too long, and replaces those that died.

Who is in which state, and what is due when, the pure `roster` decides under `lock`. A supervisor has no thread: one thread of
the process sleeps until the next alarm of all of them (`ipc.shared_threads`). It looks what is due, and kills, which returns
at once; what may block is done elsewhere: the starter starts processes, helpers see to what is late and to what has ended.
The lock is never held while anything is sent, read or called back.

The file is long because all of this shares that lock and one count of the processes that are not over yet.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from ...core.errors import Draining, JitneyError, LoadFailed, NoWorkers, WorkerTimeout
from ...core.model_config import AT_ONCE, ModelConfig
from ...core.request import Instance
from ..ipc.arena import Arena
from ..ipc.io_context import IoContext
from ..ipc.messages import Message
from ..process.cores import usable_cores
from . import capacity, placement
from .foresight import Foresight
from .messages import Loaded, Recall, Stop
from .roster import OVERSLEPT_S, Roster
from .running_calls import RunningCalls, Stage
from .shared_process import Groups
from .worker_process import WorkerProcess
from .worker_state import Alarm, Held, Worker

log = logging.getLogger(__name__)

#: Processes of a model that load at the same time, also where there are few cores.
MIN_AT_ONCE = 4

Member = Worker[WorkerProcess, RunningCalls]


class Supervisor:
    """The processes of one pool.

    on_message(worker, child, message)  what a process says, apart from `Loaded`; a loop's thread or a helper
    on_ready()                          a worker has loaded the model and is idle; a helper
    on_end(child, held)                 a process ended, or could not be started (None), and held these batches; a helper or
                                        the starter
    on_late(worker, child, batches)     open batches that gave no sign of life in time, of a worker that goes on; a helper
    excused(child, limit)               until when a process may be silent for longer than `limit`, None = not at all; a helper
    """

    def __init__(
        self,
        config: ModelConfig,
        arena: Arena,
        factory: str,
        *,
        on_message: Callable[[Member, WorkerProcess, Message], None],
        on_ready: Callable[[], None],
        on_end: Callable[[WorkerProcess | None, Held[RunningCalls]], None],
        on_late: Callable[[Member, WorkerProcess, list[RunningCalls]], None],
        excused: Callable[[WorkerProcess, float], float | None],
        io: IoContext,
        groups: Groups,
    ) -> None:
        self._config, self._arena, self._factory, self._io, self._groups = config, arena, factory, io, groups
        self._on_message, self._on_ready, self._on_end, self._excused = on_message, on_ready, on_end, excused
        self._on_late = on_late
        self._model_log = logging.getLogger(f"jitney.model.{config.name}")
        self.lock = threading.Lock()
        self.roster: Roster[WorkerProcess, RunningCalls] = Roster(
            startup_s=config.startup_timeout_s,
            response_s=config.response_timeout_s,
            give_up_after_s=config.max_retry_timeout_s,
            at_once=max(MIN_AT_ONCE, 2 * usable_cores()),
            in_flight=partial(placement.in_flight, config),
            overlaps=config.overlaps,
            together=config.continuous,
            lasts=self._lasts,
        )
        self.foresight = Foresight()  # changed with the lock held
        self.closing = False
        self.failure: LoadFailed | None = None
        self._changed = threading.Condition(self.lock)  # whoever waits sleeps here
        self._rings_at = math.inf  # the next alarm that was asked for
        self._open = 0  # processes from the order to start them until all is said that is to be said of their end
        self._has_threads = False

    def _lasts(self, batch: RunningCalls) -> tuple[float, float]:
        """`Roster`'s. Nothing follows where one batch at a time is declared, the model answers when it pleases, or the batch is
        to have its worker to itself."""
        config = self._config
        if config.max_in_flight == 1 or config.overlaps or batch.pinned or batch.again is not None:
            return math.inf, 0.0
        return self.foresight.lasts(batch.rows), self.foresight.trip

    # ---- any thread

    def resize(self, count: int, places: Sequence[Instance]) -> None:
        """Begins to start workers at `places[n]`, or lets the last ones go; Draining after `close`.

        TooFewThreads where the system has no thread left for the model.
        """
        with self.lock:
            if self.closing:
                raise Draining(f"model '{self._config.name}' is stopping")
            if not self._has_threads and count:
                self._io.threads.acquire(f"model '{self._config.name}'")
                self._has_threads = True
            dismissed = self._resize(count, places)
        self._dismiss(dismissed)

    def close(self) -> None:
        """Lets all workers go, each after its batch; there will be no more."""
        with self.lock:
            self.closing = True
            dismissed = self._resize(0, ())
        self._dismiss(dismissed)

    def _dismiss(self, dismissed: Sequence[Member]) -> None:
        """Ends those without a batch, and at once those that leave and cannot go by themselves because a signal stopped it."""
        for worker in dismissed:
            self.dismiss(worker)
        with self.lock:
            leaving = [worker.child for worker in self.roster.leaving if worker.child is not None]
        for child in leaving:
            if child.frozen:
                text = f"worker '{child.name}' of model '{self._config.name}' was stopped by a signal, and has to go"
                child.kill(WorkerTimeout(text, 137))

    def _resize(self, count: int, places: Sequence[Instance]) -> list[Member]:
        dismissed = self.roster.resize(count, time.monotonic(), places.__getitem__)
        self._notify()
        return dismissed

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until all wanted workers are ready.

        LoadFailed as soon as one could not load, TimeoutError after `timeout` seconds, Draining if the pool is stopped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            while self.closing or self.roster.ready() < self.roster.target:
                if self.closing:
                    raise Draining(f"model '{self._config.name}' is stopping")
                refused = self.roster.refused()
                if refused is not None:
                    raise self.failure or LoadFailed(self._text(refused, refused.error))
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    have, want = self.roster.ready(), self.roster.target
                    raise TimeoutError(f"model '{self._config.name}': {have} of {want} workers ready after {timeout:g} s")
                self._changed.wait(remaining)

    def wait_ended(self, deadline: float) -> list[WorkerProcess]:
        """Waits until every process ended, or until `deadline`; returns those that are left."""
        with self.lock:
            while (left := self.roster.processes()) and (remaining := deadline - time.monotonic()) > 0:
                self._changed.wait(remaining)
            return left

    def join(self) -> None:
        """After `close`: waits until all processes have ended and everybody has been told."""
        with self.lock:
            while self._open or self.roster.processes():
                self._changed.wait()
            has_threads, self._has_threads = self._has_threads, False
        if has_threads:
            self._io.threads.alarms.forget(self._ring)
            self._io.threads.release()

    def watch(self, worker: Member) -> None:
        """The worker got a batch: an alarm is to ring when that is late."""
        limit = self._config.response_timeout_s or math.inf
        if min(time.monotonic() + limit, worker.recall_at) < self._rings_at:  # rarely: one rings for an older batch anyway
            with self.lock:
                self._set_alarm()

    def asks(self, worker: Member) -> None:
        """Its model asks something of the server."""
        with self.lock:
            if self.roster.asks(worker, time.monotonic()):
                self._set_alarm()

    def dismiss(self, worker: Member) -> None:
        """Ends a worker that holds no batch: politely, or at once where it has not even loaded."""
        child = worker.child
        if child is None:
            return
        if not child.loaded:
            child.kill()
            return
        with self.lock:
            self._set_alarm()
        try:
            child.send(Stop())
        except OSError:
            pass  # gone already

    def _notify(self) -> None:
        """With the lock held: something is other than it was."""
        self._set_alarm()
        self._changed.notify_all()

    def _set_alarm(self) -> None:
        """With the lock held."""
        at = self.roster.wake_at()
        if at is not None and at < self._rings_at and self._has_threads:
            self._rings_at = at
            self._io.threads.alarms.set(self._ring, at)

    def _text(self, worker: Member, reason: str) -> str:
        return f"model '{self._config.name}' could not be loaded by worker '{worker.instance.name}': {reason}"

    # ---- the alarms' thread

    def _ring(self) -> float | None:
        """Acts on what is due; returns the instant of the next alarm."""
        with self.lock:
            due = self.roster.due(time.monotonic())
            self._open += sum(alarm is Alarm.START for _, alarm in due)
        for worker, alarm in due:
            self._signal(worker, alarm)
        with self.lock:
            at = self.roster.wake_at()
            self._rings_at = math.inf if at is None else at
            return at

    def _signal(self, worker: Member, alarm: Alarm) -> None:
        child, config = worker.child, self._config
        if alarm is Alarm.START:
            self._io.threads.starter.submit(partial(self._start, worker))
        elif child is None:
            return  # it ended a moment ago
        elif alarm is Alarm.ANSWERING:
            self._io.threads.helpers.submit(partial(self._late, worker, child))
        elif alarm is Alarm.RECALL:
            self._recall(worker, child)
        elif alarm is Alarm.LOADING:
            child.kill(JitneyError(f"not loaded within {round(config.startup_timeout_s, 3):g} s (startup_timeout)"))
        else:
            log.warning("worker '%s' did not end when it was asked to, and is killed", child.name)
            child.kill()

    def _recall(self, worker: Member, child: WorkerProcess) -> None:
        """Asks back what waits in the process, the last first, so that they come back in their order."""
        with self.lock:
            waiting = [batch for batch in worker.waiting if batch.process is child and batch.stage is Stage.SENT]
        for batch in reversed(waiting):
            try:
                child.send(Recall(batch.number))
            except OSError:
                return  # it is gone, and what it held with it

    def timeout(self, child: WorkerProcess) -> WorkerTimeout:
        """What those are told whom the worker did not answer in time."""
        limit = f"{round(self._config.response_timeout_s, 3):g} s (response_timeout)"
        return WorkerTimeout(f"worker '{child.name}' of model '{self._config.name}' did not answer within {limit}", 137)

    def no_workers(self) -> NoWorkers:
        """What a request is told that no worker will take, with the reason where there is one."""
        name, members = self._config.name, self.roster.members
        if not members:
            return NoWorkers(f"model '{name}' has no workers")
        why = self.failure or next((worker.error for worker in members if worker.error), "all were given up")
        return NoWorkers(f"model '{name}' has no healthy worker: {why}")

    # ---- the starter

    def _start(self, worker: Member) -> None:
        if not self._launch(worker):
            self._over()

    def _over(self) -> None:
        """A process that was to be started is not, or all is said of its end."""
        with self.lock:
            self._open -= 1
            self._changed.notify_all()

    def _launch(self, worker: Member) -> bool:
        """Whether there is a process now."""
        if worker.leaving:
            return False
        if not worker.began and (short := self._shortage()):
            self._not_started(worker, f"its process is not started: {short}")
            return False
        message, gone = partial(self._message, worker), partial(self._gone, worker)
        try:
            child = WorkerProcess(
                self._config, worker.instance, self._arena, self._factory, message, gone, self._io, self._groups
            )
        except (OSError, ValueError, JitneyError) as error:
            self._not_started(worker, f"its process cannot be started: {error}")
            return False
        with self.lock:
            worker.began = child.started
            wanted = self.roster.started(worker, child, time.monotonic())
            self._set_alarm()
        try:
            child.begin()
        except RuntimeError as error:
            self._not_started(worker, f"its threads cannot be started: {error}")
            return False
        if not wanted:
            child.kill()
        return True

    def _shortage(self) -> str:
        """Why there is no memory for one worker more, "" where there is; the first one is always tried."""
        with self.lock:
            loading = self.roster.loading()
            loaded = [
                w.child for w in self.roster.members if w.child is not None and w.child.loaded and w.child.sharers == 1
            ]
        if not loading and not loaded:
            return ""
        return capacity.shortage(loaded[0].pid if loaded else None, loading)

    def _not_started(self, worker: Member, reason: str) -> None:
        log.error("worker '%s': %s", worker.instance.name, reason)
        with self.lock:
            self.roster.gone(worker, time.monotonic(), reason, load_failed=True)
            self.failure = LoadFailed(self._text(worker, reason))
            self._notify()
        self._on_end(None, Held([], []))

    # ---- a loop's thread, or a helper

    def _message(self, worker: Member, child: WorkerProcess, message: Message) -> None:
        if isinstance(message, Loaded):
            self._loaded(worker, child, message)
        else:
            self._on_message(worker, child, message)

    def _loaded(self, worker: Member, child: WorkerProcess, message: Loaded) -> None:
        if message.reason:
            if message.detail:
                self._model_log.error("%s: could not load\n%s", child.name, message.detail)
            child.refusal = message
            return  # the process ends by itself; its end decides what follows
        child.loaded, child.load_seconds = True, time.time() - child.started
        with self.lock:
            self.roster.loaded(worker, time.monotonic())
            self.failure = None
            self._notify()
        self._model_log.info("%s: ready (pid %d, %.1f s)", child.name, child.pid, child.load_seconds)
        self._on_ready()

    # ---- a helper

    def _late(self, worker: Member, child: WorkerProcess) -> None:
        """Ends a worker that hangs, unless it has an excuse; where only open batches are late it goes on without them."""
        until = self._excused(child, self._config.response_timeout_s) or self._unread(child)
        with self.lock:
            late, hangs = list(worker.late), self.roster.hangs(worker)  # less than before where it answered a moment ago
            hangs = hangs or any(batch.pinned for batch in late)  # a sequence cannot go on without its answer
            if until is not None:
                worker.excuse(until)
                self._set_alarm()
            else:
                for batch in late:
                    batch.over = True
        if until is not None or not late:
            return
        if hangs:
            child.kill(self.timeout(child))
        else:
            self._on_late(worker, child, late)

    def _unread(self, child: WorkerProcess) -> float | None:
        """Until when a process may be silent whose answer may be there and not be read yet; not twice in a row: who sends answers
        without end may have left a request out."""
        now = time.monotonic()
        if child.is_heard or now < child.spared + 2 * OVERSLEPT_S or self._config.response_timeout_s == AT_ONCE:
            return None
        child.spared = now
        return now + OVERSLEPT_S

    def _gone(self, worker: Member, child: WorkerProcess) -> None:
        try:
            self._replace(worker, child)
            child.bury()
        finally:
            self._over()

    def _replace(self, worker: Member, child: WorkerProcess) -> None:
        """The process ended: its calls are to be told now, and it is replaced unless it was told to go."""
        refusal, innocent = child.refusal, child.innocent
        load_failed = not child.loaded and not innocent
        reason = refusal.reason if refusal else str(child.cause or child.ending())
        with self.lock:
            expected = worker.leaving
            held = self.roster.gone(worker, time.monotonic(), reason, load_failed, innocent)
            if load_failed and not expected:
                memory = refusal is not None and refusal.out_of_memory
                self.failure = LoadFailed(self._text(worker, reason), memory)
            self._notify()
        if not expected:
            what = "could not load" if load_failed else "ended"
            log.error("worker '%s' %s: %s; now %s", child.name, what, reason, worker.state)
        self._on_end(child, held)
