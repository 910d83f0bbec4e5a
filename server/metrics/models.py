"""What a scrape shows of the models: jitney's own families and Triton's, read from the models' counters at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ...core.histogram import Histogram
from ...core.model_config import ModelConfig
from .statistics import ModelStatistics
from .text import Exemplar, Family


class Traced(NamedTuple):
    """What a traced request waited, and its batch computed."""

    queue: Exemplar
    compute: Exemplar


#: Latest traced requests by model and version, the latest last.
Exemplars = Mapping[tuple[str, str], Sequence[Traced]]
#: Of workers, as `workers.worker_state.WorkerState` has them.
STATES = ("starting", "ready", "busy", "stopping", "backoff", "failed")
#: Upper bounds in rows.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Recorder(Protocol):
    def snapshot(self) -> ModelStatistics: ...


class WorkerFigures(Protocol):
    """One worker (`workers.status.WorkerStatus`)."""

    @property
    def id(self) -> int: ...

    @property
    def started(self) -> float: ...

    @property
    def load_seconds(self) -> float: ...

    @property
    def state(self) -> str: ...

    @property
    def restarts(self) -> int: ...


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

    def queued_rows(self) -> int: ...

    def wanted_workers(self) -> int: ...

    def workers(self) -> Sequence[WorkerFigures]: ...


@dataclass
class Row:
    """One version's figures at one moment. `unused`: loaded on demand, and never asked yet: its histograms, which are nine
    tenths of what a version shows, are left out."""

    statistics: ModelStatistics
    queued: int
    ready: bool
    rows: int = 0
    wanted: int = 0
    workers: Sequence[WorkerFigures] = ()
    exemplars: Sequence[Traced] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    cached: bool = False
    unused: bool = False


def rows(served: Iterable[Served], exemplars: Exemplars) -> list[Row]:
    found = []
    for version in served:
        labels = {"model": version.config.name, "version": version.config.version}
        statistics = version.statistics.snapshot()
        cached = version.config.response_cache
        unused = version.on_demand and not statistics.execution_count
        traced = exemplars.get((version.config.name, version.config.version), ())
        row = Row(statistics, version.queued(), version.ready, version.queued_rows(), version.wanted_workers())
        row.workers, row.exemplars, row.labels = version.workers(), list(traced), labels
        row.tags, row.cached, row.unused = version.config.metric_tags, cached, unused
        found.append(row)
    return found


def families(served: Iterable[Served], exemplars: Exemplars | None = None) -> Iterator[Family]:
    """All families of all models."""
    found = rows(served, exemplars or {})
    yield from _house(found)
    yield from _triton(found)


# -- jitney's own --------------------------------------------------------------------------------------------------------


def _house(found: list[Row]) -> Iterator[Family]:
    requests = Family("jitney_requests_total", "counter", "Requests by how they ended.")
    queued = Family("jitney_queue_depth", "gauge", "Requests that wait for a worker.")
    waiting = Family("jitney_queue_rows", "gauge", "Rows of the requests that wait for a worker.")
    workers = Family("jitney_workers", "gauge", "Workers by state.")
    wanted = Family("jitney_workers_wanted", "gauge", "Workers that there should be.")
    restarts = Family("jitney_worker_restarts_total", "counter", "Processes of workers that were replaced.")
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
        waiting.add(row.labels, row.rows)
        wanted.add(row.labels, row.wanted)
        restarts.add(row.labels, sum(worker.restarts for worker in row.workers))
        states = [worker.state.lower() for worker in row.workers]
        for state in STATES:
            workers.add({**row.labels, "state": state}, states.count(state))
        if row.unused:
            continue
        size.add_histogram(row.labels, _sizes(now))
        waited.add_histogram(row.labels, now.queue_seconds, [traced.queue for traced in row.exemplars])
        computed.add_histogram(row.labels, now.compute_seconds, [traced.compute for traced in row.exemplars])
    yield from (requests, queued, waiting, ready, workers, wanted, restarts, left, size, waited, computed)


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
