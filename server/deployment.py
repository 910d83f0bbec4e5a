"""`Deployment`: one version of one model being served: its queue, its workers, its shared memory, its figures.

A call's way: `submit` checks that the model can answer, writes the tensors into the arena and queues the call; the dispatcher
forms a batch when a worker is idle and the pool runs it; the worker's reader answers the calls; `_batch_done` frees the arena
and counts. A call that expires or is withdrawn before it left the queue is freed there. Whoever frees, exactly one does: a
call is either still in the queue or in exactly one batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from ..backends.base import Request
from ..backends.codecs import Codec
from ..backends.codecs import create as create_codec
from .batching.dispatch import Dispatcher
from .batching.queue import Batch, Batcher, Item, expiry
from .call import Call
from .errors import Draining, JitneyError, LoadFailed, ModelNotReady, NoWorkers, QueueTimeout
from .repository.config import ModelConfig, QueuePolicy
from .statistics import Statistics
from .workers.arena import Arena
from .workers.pool import BatchReport, HostServer, Pool, WorkerStatus

log = logging.getLogger(__name__)

#: Virtual size of a model's arena; only pages that hold tensors in flight are real.
ARENA_BYTES = 8 << 30


class State(StrEnum):
    """Triton's model states, as the repository index shows them."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Options:
    """What the server decides for all models: how an odd shape is treated, who answers workers' own calls and events."""

    shape_change: str = "lane"
    host: HostServer | None = None
    on_event: Callable[[Deployment, str, dict[str, object]], None] | None = None


class Deployment:
    """One served model version. Thread-safe; `submit` is the hot path and takes no lock of its own."""

    def __init__(self, config: ModelConfig, options: Options | None = None) -> None:
        options = options or Options()
        self.config = config
        self.state = State.LOADING
        self.reason = ""
        self.min_workers, self.max_workers = config.min_workers, config.max_workers
        self.statistics = Statistics(config)
        self._has_variable_dims = any(-1 in spec.dims or spec.optional for spec in config.inputs) or not config.inputs
        self._closing = False
        self._lock = threading.Lock()
        self.arena = Arena(ARENA_BYTES)
        self.pool = Pool(
            config,
            self.arena,
            on_idle=self._worker_idle,
            on_batch=self._batch_done,
            host=options.host,
            on_event=lambda kind, payload: options.on_event(self, kind, payload) if options.on_event else None,
        )
        self.batcher = Batcher(
            config.batching,
            config.max_batch_size,
            shape_change="flush" if options.shape_change == "flush" else "lane",
            name=config.name,
        )
        self.dispatcher = Dispatcher(
            self.batcher,
            idle=self.pool.idle,
            deliver=self._deliver,
            expire=self._expired,
            tickets=config.use_job_ticket,
            name=f"{config.name}/{config.version}",
        )

    # -- life ------------------------------------------------------------------------------------------------------------

    def start(self, workers: int) -> None:
        """Begins starting workers and returns at once."""
        self.pool.start(workers)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the workers have loaded the model; raises LoadFailed with their reason."""
        try:
            self.pool.wait_ready(timeout)
        except LoadFailed as error:
            self.state, self.reason = State.UNAVAILABLE, str(error)
            raise
        self.state, self.reason = State.READY, ""

    def close(self, timeout: float, *, reason: str = "unloaded") -> None:
        """Drains and stops: what was accepted is answered (for at most `timeout` seconds), then the workers end."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self.state, self.reason = State.UNLOADING, reason
        deadline = time.monotonic() + timeout
        self.dispatcher.drain(timeout)
        for item in self.dispatcher.close():
            self._abandon(item, Draining(f"model '{self.config.name}' was stopped before this request ran"))
        self.pool.stop(max(0.0, deadline - time.monotonic()))
        self.arena.close()
        self.state = State.UNAVAILABLE

    # -- requests --------------------------------------------------------------------------------------------------------

    def submit(self, request: Request, *, priority: int = 0, timeout_us: int = 0, alone: bool = False) -> Call:
        """Queues a valid request and returns its call; raises at once where it cannot be answered."""
        self.refuse_if_hopeless()
        call = Call(request)
        policy = self._policy(priority)
        arrived = call.times.arrived / 1e9
        call.deadline = expiry(policy, arrived, timeout_us)
        if self.config.client_timeout_s:
            limit = arrived + self.config.client_timeout_s
            call.deadline = limit if call.deadline is None else min(call.deadline, limit)
        item = Item(call, request.rows, self._key(request), arrived, call.deadline, priority, alone=alone)
        call.withdraw = lambda: self._withdraw(item)
        call.slots.extend(self.arena.put_all([part.data for part in (*request.tensors, *request.parts)]))
        try:
            self.dispatcher.submit(item)
        except JitneyError as error:
            self._free(call)
            self.statistics.refused(error)
            raise
        return call

    def refuse_if_hopeless(self) -> None:
        """Raises where a request could not be answered: stopping, not loaded, no workers, or none that gets up again."""
        if self._closing:
            raise Draining(f"model '{self.config.name}' is stopping and accepts no new requests")
        if self.state is State.UNAVAILABLE:
            raise ModelNotReady(self.config.name, self.config.version, self.reason)
        if self.pool.target() == 0:
            raise NoWorkers(f"model '{self.config.name}' has no workers")
        if self.pool.ready() == 0 and self.pool.failure:
            raise NoWorkers(f"model '{self.config.name}' has no healthy worker: {self.pool.failure}")

    def _policy(self, priority: int) -> QueuePolicy:
        batching = self.config.batching
        return batching.priority_queue_policy.get(priority or batching.default_priority_level, batching.default_queue_policy)

    def _key(self, request: Request) -> Hashable:
        """What a request may be batched with: the same inputs, datatypes and shapes without the batch axis."""
        if not self._has_variable_dims:
            return None
        ragged = {spec.name for spec in self.config.inputs if spec.ragged}
        start = 1 if self.config.batches else 0
        return tuple(
            (tensor.name, tensor.datatype, None if tensor.name in ragged else tensor.shape[start:])
            for tensor in request.tensors
        )

    # -- called by the dispatcher and by workers' readers ------------------------------------------------------------------

    def _deliver(self, batch: Batch) -> None:
        now = time.monotonic_ns()
        calls: list[Call] = [item.payload for item in batch.items]
        for call in calls:
            call.times.dispatched = now
            call.batch_rows = batch.rows
        self.statistics.left(batch.reason, batch.rows)
        self.pool.execute(calls)

    def _worker_idle(self) -> None:
        self.dispatcher.wake()

    def _batch_done(self, report: BatchReport) -> None:
        for call in report.calls:
            self._free(call)
        self.statistics.batch(report)

    def _expired(self, item: Item) -> None:
        self._abandon(item, QueueTimeout("Request timeout expired"))

    def _withdraw(self, item: Item) -> None:
        if self.dispatcher.cancel(item):
            self._free(item.payload)

    def _abandon(self, item: Item, error: JitneyError) -> None:
        call: Call = item.payload
        self._free(call)
        if call.fail(error):
            self.statistics.refused(error)

    def _free(self, call: Call) -> None:
        slots, call.slots = call.slots, []
        self.arena.free_all(slots)

    # -- figures ---------------------------------------------------------------------------------------------------------

    @cached_property
    def codec(self) -> Codec:
        """Turns TorchServe-style requests into this model's tensors, and back."""
        return create_codec(self.config)

    @property
    def ready(self) -> bool:
        return self.state is State.READY and self.pool.ready() > 0

    def queued(self) -> int:
        """Requests that wait for a worker."""
        return self.dispatcher.pending()

    def workers(self) -> list[WorkerStatus]:
        return self.pool.workers()
