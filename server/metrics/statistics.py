"""Counters of one model version, as Triton reports them.

`Statistics` is fed once for each executed batch and once for each request that never ran; `snapshot` is a consistent copy.
Meaning (Triton): `success` and `fail` count requests with their whole time; `queue` and `compute_*` cover successful requests,
each charged with the full time of the batch that it was in; `inference_count` counts rows of successful requests and
`execution_count` executions, failed ones too, so rows / executions is the mean batch. An error that the model reported itself
for one request (`TritonError`) counts as success.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...core.call import Call
from ...core.errors import Cancelled, InvalidRequest, JitneyError, ModelFailed, Unavailable, WorkerDied
from ...core.histogram import Histogram
from ...core.model_config import ModelConfig
from .recent import LastMinute, Recent

#: Triton's reasons of failed requests; all are reported, also those that never happened.
FAILURE_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


class Executed(Protocol):
    """One batch that has run: its calls, all of them answered. Their `times.compute_*` are the batch's durations."""

    @property
    def calls(self) -> Sequence[Call]: ...


@dataclass(slots=True)
class Duration:
    """How often something took place, and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def copy(self) -> Duration:
        return Duration(self.count, self.ns)


@dataclass(slots=True)
class BatchStatistics:
    """Executions of one batch size, in rows."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def copy(self) -> BatchStatistics:
        return BatchStatistics(self.compute_input.copy(), self.compute_infer.copy(), self.compute_output.copy())


@dataclass(slots=True)
class ModelStatistics:
    """A model version's counters at one moment.

    last_inference  milliseconds since the epoch at which the last execution ended; 0 = never
    batches         by batch size in rows
    failures        failed requests by Triton's reason
    departures      batches by the reason why they left the queue
    queue_seconds, compute_seconds  how long successful requests waited, and batches took in their worker
    """

    model: str
    version: str
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    batches: Mapping[int, BatchStatistics] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    departures: Mapping[str, int] = field(default_factory=dict)
    queue_seconds: Histogram = field(default_factory=Histogram)
    compute_seconds: Histogram = field(default_factory=Histogram)


class Statistics:
    """The recorder of one model version. Thread-safe: dispatcher and readers write, front-end threads take snapshots."""

    def __init__(self, config: ModelConfig) -> None:
        self._lock = threading.Lock()
        self._now = ModelStatistics(config.name, config.version)
        self._batches: dict[int, BatchStatistics] = {}
        self._failures = Counter(dict.fromkeys(FAILURE_REASONS, 0))
        self._departures: Counter[str] = Counter()
        self._recent = Recent(time.monotonic_ns())

    def left(self, reason: str, rows: int) -> None:
        """Counts a batch that left the queue, by the reason why it left."""
        with self._lock:
            self._departures[reason] += 1
            self._recent.left(reason, rows, time.monotonic_ns())

    def batch(self, executed: Executed) -> None:
        """Counts one execution and the requests that were in it."""
        calls = executed.calls
        if not calls:
            return
        with self._lock:
            self._now.execution_count += 1
            self._recent.ran(calls)
            self._now.last_inference = time.time_ns() // 1_000_000
            self._count_size(calls)
            self._count_requests(calls)

    def refused(self, error: JitneyError, waited_ns: int = 0) -> None:
        """Counts a request that failed without being executed."""
        with self._lock:
            self._failures[failure_reason(error)] += 1
            self._now.fail.add(waited_ns)

    def last_minute(self) -> LastMinute:
        """The sizes of the batches that left in it, and where the time of its requests went."""
        with self._lock:
            return self._recent.read(time.monotonic_ns())

    def cache_hit(self, call: Call, lookup_ns: int) -> None:
        """Counts a request that was answered from the response cache."""
        with self._lock:
            self._now.cache_hit.add(lookup_ns)
            self._now.success.add(call.times.answered - call.times.arrived)
            self._now.queue.add(0)

    def cache_miss(self, lookup_ns: int) -> None:
        """Counts a look-up, and the insertion that follows it, of a request that the cache could not answer."""
        with self._lock:
            self._now.cache_miss.add(lookup_ns)

    def snapshot(self) -> ModelStatistics:
        """A copy that does not change any more."""
        with self._lock:
            now = self._now
            return ModelStatistics(
                now.model,
                now.version,
                now.last_inference,
                now.inference_count,
                now.execution_count,
                now.success.copy(),
                now.fail.copy(),
                now.queue.copy(),
                now.compute_input.copy(),
                now.compute_infer.copy(),
                now.compute_output.copy(),
                now.cache_hit.copy(),
                now.cache_miss.copy(),
                {size: self._batches[size].copy() for size in sorted(self._batches)},
                dict(self._failures),
                dict(self._departures),
                now.queue_seconds.copy(),
                now.compute_seconds.copy(),
            )

    def _count_size(self, calls: Sequence[Call]) -> None:
        rows = calls[0].batch_rows or sum(call.request.rows for call in calls)
        size = self._batches.get(rows)
        if size is None:
            size = self._batches[rows] = BatchStatistics()
        before, model, after = max([_durations(call) for call in calls])
        size.compute_input.add(before)
        size.compute_infer.add(model)
        size.compute_output.add(after)
        self._now.compute_seconds.observe((before + model + after) / 1e9)

    def _count_requests(self, calls: Sequence[Call]) -> None:
        now, count, rows, whole, queued = self._now, 0, 0, 0, 0
        compute, waits = [0, 0, 0], []
        for call in calls:
            times = call.times
            if call.error is not None and not _reported_by_model(call.error):
                self._failures[failure_reason(call.error)] += 1
                now.fail.add(times.answered - times.arrived)
                continue
            waited = times.dispatched - times.arrived
            count, rows, queued = count + 1, rows + call.request.rows, queued + waited
            whole += times.answered - times.arrived
            compute[0] += times.compute_input
            compute[1] += times.compute_infer
            compute[2] += times.compute_output
            waits.append(waited / 1e9)
        now.inference_count += rows
        now.success.add(whole, count)
        now.queue.add(queued, count)
        now.queue_seconds.observe_all(waits)
        for duration, ns in zip((now.compute_input, now.compute_infer, now.compute_output), compute, strict=True):
            duration.add(ns, count)


def _durations(call: Call) -> tuple[int, int, int]:
    """The batch's durations, as each call in it has them, but for calls that were answered otherwise: zeros."""
    times = call.times
    return times.compute_input, times.compute_infer, times.compute_output


def _reported_by_model(error: JitneyError) -> bool:
    return isinstance(error, ModelFailed) and error.by_model


def failure_reason(error: JitneyError) -> str:
    """Triton's name for why a request failed."""
    match error:
        case Unavailable() | InvalidRequest():
            return "REJECTED"
        case Cancelled():
            return "CANCELED"
        case ModelFailed() | WorkerDied():
            return "BACKEND"
        case _:
            return "OTHER"
