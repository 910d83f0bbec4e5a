"""`WorkerDeployment`: a model version in worker processes.

A call's way: `submit` checks that the model can answer, writes the tensors into the arena and queues the call; the dispatcher
forms a batch when a worker is idle and the pool runs it; the worker's reader answers the calls; `_batch_done` frees the arena
and counts. A call that expires or is withdrawn before it left the queue is freed there. Exactly one thread frees: a
call is either still in the queue or in exactly one batch.

The file is long since a call's way, and who frees it where, is to be read in one place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...codecs.base import Encode
from ...core.call import Call, Target
from ...core.errors import Cancelled, Draining, JitneyError, LoadFailed, ModelNotReady, QueueFull, QueueTimeout, Unsupported
from ...core.model_config import ModelConfig
from ...core.request import Request
from ..batching.dispatch import Dispatcher, Queue
from ..batching.item import Batch, Item, Waiting
from ..batching.lane import BatchKeys
from ..batching.policy import ShapeChange
from ..batching.queue import Batcher
from ..ipc.arena import Arena
from ..metrics.statistics import Statistics
from ..repository.torchserve.fast_path import handler_alone
from ..workers.pool import Pool
from ..workers.running_calls import BatchReport, encoded
from ..workers.status import WorkerStatus
from .deployment import Deployment, ModelState, OnAnswer, Options
from .fatal_inputs import FatalInputs
from .ordering import OrderedAnswers
from .response_cache import answer_from, new_generation

#: Virtual size of a model's arena; only pages that hold tensors in flight are real.
ARENA_BYTES = 8 << 30
#: Nanoseconds of a worker for a batch below which a model is quick; see `ipc.coalesce`.
BRISK_NS = 1_000_000


class WorkerDeployment(Deployment):
    """A model version in worker processes. Thread-safe; `submit` is the hot path and takes no lock of its own."""

    arena: Arena

    def __init__(self, config: ModelConfig, options: Options) -> None:
        super().__init__(config)
        self._key = BatchKeys(config).key
        self._ordered = OrderedAnswers() if config.batching.preserve_ordering else None
        self._cache = options.cache if config.response_cache else None
        self._generation = new_generation()
        self._patient = not (config.client_timeout_s or config.batching.limits_waiting or config.sequence)
        self._fatal = FatalInputs(config.name)
        self._stands_in = config.handler is not None and config.backend != "handler"  # the fast path, for a handler
        self._on_event = options.on_event
        self._closing = False
        self._retries = False
        # While the worker is busy anyway; a sequence's request is told its slot when it leaves the queue.
        self._encodes_early = config.sequence is None
        # A declared delay is honoured to the letter; the others gather requests in other ways.
        self._waits_for_clients = not (config.batching.max_queue_delay_us or config.sequence or config.overlaps)
        self._lock = threading.Lock()
        self._options = options
        self._explainer: WorkerDeployment | None = None
        self.on_workers: Callable[[], None] | None = None  # called when a worker became ready, or is no longer
        self.arena = Arena(ARENA_BYTES)
        self.pool = self._make_pool(options)
        self.dispatcher = self._make_dispatcher(options)

    def _make_pool(self, options: Options) -> Pool:
        return Pool(
            self.config,
            self.arena,
            on_idle=self._worker_idle,
            on_batch=self._batch_done,
            on_returned=self._batch_returned,
            on_over=self._batch_over,
            on_fatal=lambda call: self._fatal.crashed(call.request),
            host=options.host,
            on_event=self._event,
            on_state=self._workers_changed,
            gpus=options.gpus,
            io=options.io,
            groups=options.groups,
        )

    def _make_dispatcher(self, options: Options) -> Dispatcher:
        return Dispatcher(
            self._make_batcher(),
            idle=self.pool.idle,
            ahead=self.pool.ahead,
            ending=self.pool.ending,
            deliver=self._deliver,
            expire=self._expired,
            tickets=self.config.use_job_ticket,
            coalescer=options.io.coalescer,
            name=f"{self.config.name}/{self.config.version}",
        )

    # -- what a stateful model does otherwise -------------------------------------------------------------------------------

    def _make_batcher(self) -> Queue:
        config = self.config
        shape_change: ShapeChange = "flush" if self._options.shape_change == "flush" else "lane"
        self._batcher = Batcher(config.batching, config.max_batch_size, shape_change=shape_change, name=config.name)
        return self._batcher

    def _make_item(self, call: Call, priority: int, alone: bool) -> Item:
        request = call.request
        return Item(call, request.rows, self._key(request), call.times.arrived / 1e9, call.deadline, priority, alone=alone)

    def _expiry(self, arrived: float, priority: int, timeout_us: int) -> float | None:
        """When waiting in the queue ends by the model's queue policy."""
        return self._batcher.expiry(arrived, priority, timeout_us)

    def _run(self, batch: Batch, calls: list[Call]) -> None:
        self.pool.execute(calls)

    # -- life ------------------------------------------------------------------------------------------------------------

    def resume(self, statistics: Statistics, generation: int) -> None:
        """Before `start`: goes on with the counters, and the answers in the response cache, of an earlier load of this
        version."""
        self.statistics, self._generation = statistics, generation

    def start(self, workers: int, *, retry: bool = False) -> None:
        """Begins starting workers and returns at once; with `retry` a first start that fails is tried again."""
        self._retries = retry
        self.pool.start(workers, retry=retry)

    def scale(self, workers: int, *, retry: bool = False) -> None:
        """Begins adding workers, or lets the last ones finish and end.

        With `retry` a model that could not be loaded gets another chance, as at `start`.
        """
        if not retry:
            self.pool.scale(workers)
            self._answer_without_workers()
            return
        self.start(workers, retry=True)
        self._answer_without_workers()
        with self._lock:
            if self.state is ModelState.UNAVAILABLE and not self._closing:
                self.state, self.reason = ModelState.LOADING if workers else ModelState.READY, ""

    def explainer(self) -> WorkerDeployment:
        """Runs the archive's own handler, for explanations of a model whose predictions take the fast path.

        Its one worker is started when it is first asked for, and ends with this deployment. Unsupported where there is no
        archive.
        """
        if self.config.handler is None:
            raise Unsupported(f"model '{self.config.name}' offers predictions only; explanations need a TorchServe archive")
        with self._lock:
            if self._closing:
                raise Draining(f"model '{self.config.name}' is stopping and accepts no new requests")
            if self._explainer is None:
                self._explainer = WorkerDeployment(handler_alone(self.config), self._options)
                self._explainer.start(1, retry=True)
            return self._explainer

    def wait_ready(self, timeout: float | None = None) -> None:
        try:
            self.pool.wait_ready(timeout)
        except LoadFailed as error:
            with self._lock:
                if not (self._retries and self.pool.ready()) and not self._closing:
                    self.state, self.reason = ModelState.UNAVAILABLE, str(error)
            raise
        self._now_ready()

    def _workers_changed(self) -> None:
        """Where failing starts are tried again, the first worker that comes up makes the model ready."""
        self._answer_without_workers()
        self._event("workers", {})
        if self.on_workers is not None:
            self.on_workers()
        if not self._retries or self.state not in (ModelState.LOADING, ModelState.UNAVAILABLE) or not self.pool.ready():
            return
        self._now_ready()

    def _now_ready(self) -> None:
        with self._lock:
            if not self._closing:
                self.state, self.reason = ModelState.READY, ""

    def _answer_without_workers(self) -> None:
        """Answers what waits for a worker where none is to be expected: scaled to none, or none of them could load the model."""
        if not self.pool.no_workers_left():
            return
        for item in self.dispatcher.clear():
            self._abandon(item, self.pool.no_workers())

    def close(self, timeout: float, *, reason: str = "unloaded") -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self.state, self.reason = ModelState.UNLOADING, reason
        self.pool.rests.end()
        deadline = time.monotonic() + timeout
        self.dispatcher.drain(timeout)
        if self._explainer is not None:
            self._explainer.close(max(0.0, deadline - time.monotonic()), reason=reason)
        for item in self.dispatcher.close():
            self._abandon(item, Draining(f"model '{self.config.name}' was stopped before this request ran"))
        self.pool.stop(max(0.0, deadline - time.monotonic()))
        self.arena.close()
        self.state = ModelState.UNAVAILABLE

    # -- requests --------------------------------------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        alone: bool = False,
        on_answer: OnAnswer | None = None,
        target: Target | None = None,
        encode: Encode | None = None,
    ) -> Call:
        # In one piece, since every request comes by: a step of its own is a call more for each.
        if self._closing or self.state is ModelState.UNAVAILABLE or not self.pool.accepting:
            self.refuse_without_workers()
        if self._cache is None and not request.rows > self.config.max_batch_size > 0:  # which is another error
            self.refuse_if_full(priority)
        if self._fatal.any:
            self._fatal.check(request)
        call = Call(request, self.config, on_answer=on_answer)
        call.encode = encode
        if self._cache is None:  # which would keep the outputs for longer than the target's memory lasts
            call.target = target
        elif answer_from(self._cache, call, self.config, self._generation, self.statistics):
            return call
        call.deadline = self._deadline(call.times.arrived / 1e9, priority, timeout_us)
        item = self._make_item(call, priority, alone)
        call.withdraw = lambda: self._withdraw(item)
        data = [*[tensor.data for tensor in request.tensors], *[part.data for part in request.parts]]
        call.slots = self.arena.put_all(data)
        if self._ordered is not None:
            self._ordered.admit(call)
        try:
            if self._encodes_early:
                call.message = encoded(call)
            self.dispatcher.submit(item)
        except JitneyError as error:
            self.arena.undo(call.slots)  # where it is stopping, its successor is asked with the same data
            call.slots = []
            self._refused(call, error)
            raise
        if self.pool.rests.resting and self.dispatcher.pending():
            self.pool.rests.end()
        self._answer_without_workers()  # the last worker may have gone since the check above
        return call

    def refuse_without_workers(self) -> None:
        if self._closing:
            raise Draining(f"model '{self.config.name}' is stopping and accepts no new requests")
        if self.state is ModelState.UNAVAILABLE:
            raise ModelNotReady(self.config.name, self.config.version, self.reason)
        if self.pool.no_workers_left():
            raise self.pool.no_workers()

    def refuse_if_full(self, priority: int | None = None) -> None:
        if self._cache is not None:
            return  # it may have the answer
        try:
            self.dispatcher.refuse_if_full(priority)
        except QueueFull as error:
            self.statistics.refused(error)
            raise

    def rest(self, call: Call, rests: bool) -> None:
        if rests and not self._closing:
            self.pool.rests.begin(call, lambda: self._closing or self.dispatcher.pending() > 0)
        else:
            self.pool.rests.over(call)

    def _deadline(self, arrived: float, priority: int, timeout_us: int) -> float | None:
        """When waiting in the queue ends: the queue policy's rule, or TorchServe's client timeout if that is sooner."""
        if self._patient and not timeout_us:
            return None
        deadline = self._expiry(arrived, priority, timeout_us)
        if not self.config.client_timeout_s:
            return deadline
        limit = arrived + self.config.client_timeout_s
        return limit if deadline is None else min(deadline, limit)

    # -- called by the dispatcher and by workers' readers ------------------------------------------------------------------

    def _deliver(self, batch: Batch) -> None:
        now = time.monotonic_ns()
        calls: list[Call] = [item.payload for item in batch.items]
        for call in calls:
            call.times.dispatched = now
            call.batch_rows = batch.rows
        self.statistics.left(batch.reason, batch.rows)
        self._run(batch, calls)

    def _worker_idle(self) -> None:
        self.dispatcher.wake()

    def _batch_returned(self, calls: Sequence[Call]) -> None:
        """`execute` has returned, and answers are still to come."""

    def _batch_over(self, rows: int, took: float) -> None:
        """A worker has finished a batch, whose answers are about to be sent."""
        if self._waits_for_clients and self.pool.target() == 1:
            self.dispatcher.answered(rows, took)

    def _batch_done(self, report: BatchReport) -> None:
        for call in report.calls:
            call.withdraw = call.message = None
            if call.slots:
                self._free(call)
        self.statistics.batch(report)
        if self._stands_in and report.ok:
            self._event("batch", {"durations": report.durations, "request_ids": [call.request.id for call in report.calls]})
        self.dispatcher.low_latency = report.ok and sum(report.durations) < BRISK_NS

    def _event(self, kind: str, payload: Mapping[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(self, kind, payload)

    def _expired(self, item: Item) -> None:
        self._abandon(item, QueueTimeout("Request timeout expired"))

    def _withdraw(self, item: Item) -> None:
        call: Call = item.payload
        if self.dispatcher.cancel(item):
            self._refused(call, call.error or Cancelled("withdrawn"))
        else:
            self.pool.cancel(call)

    def _abandon(self, item: Item, error: JitneyError) -> None:
        call: Call = item.payload
        if call.fail(error):
            self._refused(call, error)
        else:
            self._free(call)

    def _refused(self, call: Call, error: JitneyError) -> None:
        self._free(call)
        if self._ordered is not None:
            self._ordered.withdraw(call)
        self.statistics.refused(error, time.monotonic_ns() - call.times.arrived)

    def _free(self, call: Call) -> None:
        call.withdraw = call.message = None  # a request must go at once, not at the next garbage collection
        if call.slots:
            slots, call.slots = call.slots, []
            self.arena.free_all(slots)

    # -- figures ---------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self.state is ModelState.READY and self.pool.ready() > 0

    @property
    def stranded(self) -> bool:
        return self.pool.target() > 0 and self.pool.ready() == 0

    def queued(self) -> int:
        return self.dispatcher.pending()

    def queued_rows(self) -> int:
        return self.dispatcher.pending_rows()

    def waiting(self) -> Waiting:
        return self.dispatcher.waiting()

    def workers(self) -> list[WorkerStatus]:
        return self.pool.workers()

    def healthy_workers(self) -> int:
        return self.pool.healthy()

    def wanted_workers(self) -> int:
        return self.pool.target()
