"""What a scrape shows of the models: jitney's own families and Triton's, read from the models' counters at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ...core.histogram import Histogram
from ...core.model_config import ModelConfig
from .statistics import ModelStatistics
from .text import Family

#: Upper bounds in rows.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Recorder(Protocol):
    def snapshot(self) -> ModelStatistics: ...


class WorkerFigures(Protocol):
    """One worker (`workers.status.WorkerStatus`)."""

    @property
    def id(self) -> int: ...

    @property
    def load_seconds(self) -> float: ...


class Served(Protocol):
    """A served model version, as far as metrics need it (`deployment.Deployment`)."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def statistics(self) -> Recorder: ...

    @property
    def ready(self) -> bool: ...

    @property
    def on_demand(self) -> bool: ...

    def queued(self) -> int: ...

    def workers(self) -> Sequence[WorkerFigures]: ...


@dataclass
class Row:
    """One version's figures at one moment. `unused`: loaded on demand, and never asked yet: its histograms, which are nine
    tenths of what a version shows, are left out."""

    statistics: ModelStatistics
    queued: int
    ready: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    cached: bool = False
    unused: bool = False


def rows(served: Iterable[Served]) -> list[Row]:
    found = []
    for version in served:
        labels = {"model": version.config.name, "version": version.config.version}
        statistics = version.statistics.snapshot()
        cached = version.config.response_cache
        unused = version.on_demand and not statistics.execution_count
        found.append(Row(statistics, version.queued(), version.ready, labels, version.config.metric_tags, cached, unused))
    return found


def families(served: Iterable[Served]) -> Iterator[Family]:
    """All families of all models."""
    found = rows(served)
    yield from _house(found)
    yield from _triton(found)


# -- jitney's own --------------------------------------------------------------------------------------------------------


def _house(found: list[Row]) -> Iterator[Family]:
    requests = Family("jitney_requests_total", "counter", "Requests by how they ended.")
    queued = Family("jitney_queue_depth", "gauge", "Requests that wait for a worker.")
    ready = Family("jitney_model_ready", "gauge", "Whether the version can answer.")
    left = Family("jitney_batches_total", "counter", "Batches by the reason why they left the queue.")
    size = Family("jitney_batch_size_rows", "histogram", "Rows of the executed batches.")
    waited = Family("jitney_queue_seconds", "histogram", "Time from a request's arrival until its batch left.")
    computed = Family("jitney_compute_seconds", "histogram", "Time that a batch took in its worker.")
    for row in found:
        now = row.statistics
        requests.add({**row.labels, "outcome": "success"}, now.success.count)
        for reason, count in now.failures.items():
            requests.add({**row.labels, "outcome": reason.lower()}, count)
        for reason, count in now.departures.items():
            left.add({**row.labels, "reason": reason}, count)
        queued.add(row.labels, row.queued)
        ready.add(row.labels, float(row.ready))
        if row.unused:
            continue
        size.add_histogram(row.labels, _sizes(now))
        waited.add_histogram(row.labels, now.queue_seconds)
        computed.add_histogram(row.labels, now.compute_seconds)
    yield from (requests, queued, ready, left, size, waited, computed)


def _sizes(now: ModelStatistics) -> Histogram:
    histogram = Histogram(ROWS)
    for size, batches in now.batches.items():
        histogram.observe(size, batches.compute_infer.count)
    return histogram


# -- Triton's ------------------------------------------------------------------------------------------------------------

Reading = Callable[[ModelStatistics], float]

_COUNTERS: tuple[tuple[str, str, Reading], ...] = (
    ("nv_inference_request_success", "Number of successful inference requests", lambda s: s.success.count),
    ("nv_inference_count", "Number of inferences performed, in rows", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Number of model executions", lambda s: s.execution_count),
    ("nv_inference_request_duration_us", "Cumulative request time", lambda s: s.success.ns // 1000),
    ("nv_inference_queue_duration_us", "Cumulative time in the queue", lambda s: s.queue.ns // 1000),
    ("nv_inference_compute_input_duration_us", "Cumulative time for inputs", lambda s: s.compute_input.ns // 1000),
    ("nv_inference_compute_infer_duration_us", "Cumulative time in the model", lambda s: s.compute_infer.ns // 1000),
    ("nv_inference_compute_output_duration_us", "Cumulative time for outputs", lambda s: s.compute_output.ns // 1000),
)
_CACHE: tuple[tuple[str, str, Reading], ...] = (
    ("nv_cache_num_hits_per_model", "Number of cache hits", lambda s: s.cache_hit.count),
    ("nv_cache_num_misses_per_model", "Number of cache misses", lambda s: s.cache_miss.count),
    ("nv_cache_hit_duration_per_model", "Cumulative time of cache hits in microseconds", lambda s: s.cache_hit.ns // 1000),
    ("nv_cache_miss_duration_per_model", "Cumulative time of misses in microseconds", lambda s: s.cache_miss.ns // 1000),
)


def _triton(found: list[Row]) -> Iterator[Family]:
    """Triton's counters, with its names and labels; a model's `metric_tags` are labels too."""
    failed = Family("nv_inference_request_failure", "counter", "Number of failed inference requests")
    pending = Family("nv_inference_pending_request_count", "gauge", "Requests that wait in the queue")
    for row in found:
        labels = {**row.tags, **row.labels}
        for reason, count in row.statistics.failures.items():
            failed.add({**labels, "reason": reason}, count)
        pending.add(labels, row.queued)
    for name, about, reading in (*_COUNTERS, *_CACHE):
        family = Family(name, "counter", about)
        for row in found:
            if name.startswith("nv_cache") and not row.cached:
                continue
            family.add({**row.tags, **row.labels}, reading(row.statistics))
        if family.samples or not name.startswith("nv_cache"):
            yield family
    yield from (failed, pending)
