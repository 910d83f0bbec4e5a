"""Every metric of /metrics: from the code that shows them, asked as a scrape asks it, for a model with one of each figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector

from ....backends.gpus import GpuFigures
from ....server.metrics import machine, models
from ....server.metrics.statistics import ModelStatistics
from ....server.metrics.text import Family
from ....server.metrics.torchserve import LEGACY, read_declarations
from . import code, table

HEAD = ("metric", "kind", "labels", "what it is")

#: What TorchServe's metrics are; metrics.yaml has their units only.
TORCHSERVE = {
    "Requests2XX": "answers with a status of the 200s, on all ports",
    "Requests4XX": "answers with a status of the 400s",
    "Requests5XX": "answers with any other status",
    "ts_inference_requests_total": "requests for predictions of a model that exists",
    "ts_inference_latency_microseconds": "cumulative time from a request's arrival to its answer, of those that succeeded",
    "ts_queue_latency_microseconds": "cumulative time in the queue, of those that succeeded",
    "QueueTime": "time in the queue, of the latest request",
    "WorkerThreadTime": "time to the worker and back beyond the worker's own, of the latest request",
    "CPUUtilization": "how busy all cores are",
    "MemoryUsed": "memory in use",
    "MemoryAvailable": "memory that is available",
    "MemoryUtilization": "share of the memory that is in use",
    "DiskUsage": "use of the disk that holds /",
    "DiskAvailable": "what is free there",
    "DiskUtilization": "share of it that is in use",
    "WorkerLoadTime": "time from a worker's start until it was ready",
    "GPUMemoryUtilization": "share of a GPU's memory that is in use",
    "GPUMemoryUsed": "a GPU's memory in use",
    "GPUUtilization": "how busy a GPU is",
    "HandlerTime": "time of a handler's `handle`, of the latest batch; from BaseHandler's kind and what stands in for it",
    "PredictionTime": "time of a batch in its worker, of the latest batch",
}


class _Cache:
    """A response cache without an entry."""

    limit, used = 1, 0
    hits = misses = evictions = lookup_ns = insertion_ns = 0

    def __len__(self) -> int:
        return 0


def _row() -> models.Row:
    """One version of a model with a response cache, which has failed once."""
    statistics = ModelStatistics("m", "1", failures={"OTHER": 1}, departures={"idle": 1})
    return models.Row(statistics, 0, True, labels={"model": "m", "version": "1"}, cached=True)


def _rows(families: Iterable[Family]) -> Iterator[tuple[str, ...]]:
    for family in families:
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        yield f"`{family.name}`", family.kind, ", ".join(map(code, labels)), family.help.rstrip(".")


def own() -> str:
    """jitney's own metrics of the models."""
    return table(HEAD, _rows(models._house([_row()])))


def triton() -> str:
    """Triton's: of the models, the machine, the GPUs, the cache."""
    gpu = GpuFigures(0, "GPU-0", 0.0, 0.0, 0.0, 1.0)
    found = [*models._triton([_row()]), *machine.cache_families(_Cache()), *machine.cpu_families(0.0)]
    return table(HEAD, _rows([*found, *machine.gpu_families([gpu])]))


def torchserve() -> str:
    """TorchServe's, as they are declared where no metrics.yaml is named."""
    found = [
        (
            f"`{declared.name}`",
            declared.kind,
            ", ".join(map(code, declared.labels)),
            f"{TORCHSERVE[declared.name]}, in {declared.unit}" + ("; also in mode legacy" * (declared.name in LEGACY)),
        )
        for declared in read_declarations("")
    ]
    return table(HEAD, found)


def process() -> str:
    """Those of the server's process, as prometheus_client has them."""
    found = ProcessCollector(registry=CollectorRegistry()).collect()
    names = [(f"`{sample.name}`", metric.type, "", metric.documentation) for metric in found for sample in metric.samples]
    return table(HEAD, [(name, kind, labels, text.rstrip(".")) for name, kind, labels, text in names])
