"""`Metrics`: everything that the metrics port shows. What models count themselves is read from them at the scrape."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from ...backends import gpus
from .custom import CustomMetrics
from .machine import CacheFigures, cache_families, cpu_families, gpu_families
from .models import Exemplars, Served, WorkerFigures, families
from .system import SystemFigures
from .text import CONTENT_TYPE, OPENMETRICS, Family, Kind, render, render_openmetrics
from .torchserve import TorchServeMetrics

__all__ = ["CONTENT_TYPE", "OPENMETRICS", "Metrics"]

log = logging.getLogger(__name__)


def _nothing() -> Iterable[Served]:
    return ()


class Metrics:
    """One object for all listeners. Thread-safe.

    served    gives the served model versions at the moment of a scrape (`registry.deployments`)
    interval  seconds between readings of the machine's figures where they are logged
    cache     the response cache, where there is one
    """

    def __init__(
        self,
        served: Callable[[], Iterable[Served]] = _nothing,
        *,
        mode: str = "prometheus",
        config: str = "",
        auto_detect: bool = False,
        system: bool = True,
        interval: float = 60.0,
        cache: CacheFigures | None = None,
    ) -> None:
        self.served = served
        self.torchserve = TorchServeMetrics(mode, config, auto_detect)
        self.custom = CustomMetrics()
        self._system = SystemFigures() if system else None
        self._process = ProcessCollector(registry=CollectorRegistry())
        self._interval, self._cache = interval, cache
        self.collect: Callable[[], None] = lambda: None  # called before a scrape, to bring what others have counted
        self.exemplars: Callable[[], Exemplars] = dict  # of traced requests
        self.more: list[Callable[[], Iterable[Family]]] = []  # families that others count
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None
        self._lock = threading.Lock()
        #: When the processes of loaded workers were started, of which the log has their load, by worker id.
        self._loads: weakref.WeakKeyDictionary[Served, dict[int, float]] = weakref.WeakKeyDictionary()
        self._said: set[str] = set()  # names of models' metrics of which it was said that they are dropped

    @property
    def mode(self) -> str:
        return self.torchserve.mode

    def start(self) -> None:
        """Begins to log the machine's figures, in the modes that log them."""
        if self._system is not None and self.mode != "prometheus":
            self._sampler = threading.Thread(target=self._sample_forever, name="metrics", daemon=True)
            self._sampler.start()

    def close(self) -> None:
        self._stop.set()
        if self._sampler is not None:
            self._sampler.join()

    def event(self, model: str, version: str, payload: Mapping[str, Any]) -> None:
        """Takes a "metric" event of a worker: a handler's (TorchServe) or a Python model's (Triton)."""
        if payload.get("source") == "python":
            self.custom.take(payload)
        else:
            self.torchserve.from_handler(payload)

    def workers_changed(self, version: Served) -> None:
        """Logs how long workers took to load that have become ready, in the modes that log it; a scrape reads it itself."""
        if self.mode == "prometheus":
            return
        with self._lock:
            told = self._loads.setdefault(version, {})
            for worker in version.workers():
                if worker.load_seconds and told.get(worker.id) != worker.started:
                    told[worker.id] = worker.started
                    self._loaded(version, worker)

    def scrape(self, names: Sequence[str] = (), *, openmetrics: bool = False) -> bytes:
        """Prometheus text, or OpenMetrics; with `names` only samples with one of these names. Empty in mode log (TorchServe)."""
        self.collect()
        if self.mode == "prometheus":
            self._read_system()
            self._read_workers()
        return (render_openmetrics if openmetrics else render)(self._families(), names)

    def _families(self) -> Iterator[Family]:
        """The server's families, and the models' own; those of one name are one family, as in Triton, since a scrape takes no
        name twice."""
        found = {family.name: family for family in self._of_the_server()}
        for family in self.custom.families() if self.mode == "prometheus" else ():
            known = found.setdefault(family.name, family)
            if known is not family:
                self._join(known, family)
        yield from found.values()

    def _join(self, known: Family, family: Family) -> None:
        taken = {(sample.suffix, frozenset(sample.labels.items())) for sample in known.samples}
        fitting = family.samples if family.kind == known.kind else []
        fitting = [sample for sample in fitting if (sample.suffix, frozenset(sample.labels.items())) not in taken]
        known.samples += fitting
        if len(fitting) < len(family.samples) and family.name not in self._said:
            self._said.add(family.name)
            text = (
                "a model's %s '%s' was dropped: the server's own %s of that name has the same labels, or is of another kind"
            )
            log.warning(text, family.kind, family.name, known.kind)

    def _of_the_server(self) -> Iterator[Family]:
        yield from self.torchserve.families()
        if self.mode != "prometheus":
            return
        yield from families(self.served(), self.exemplars())
        if self._system is not None:
            yield from cpu_families(self._system.utilization())
            yield from gpu_families(gpus.READER.read())
        if self._cache is not None:
            yield from cache_families(self._cache)
        for counted in self.more:
            yield from counted()
        yield from self._process_families()

    def _process_families(self) -> Iterator[Family]:
        for metric in self._process.collect():
            kind: Kind = "counter" if metric.type == "counter" else "gauge"
            family = Family(metric.name, kind, metric.documentation)
            for sample in metric.samples:
                family.name = sample.name
                family.add(sample.labels, sample.value)
            yield family

    def _read_system(self) -> None:
        if self._system is not None:
            for name, value in self._system.read():
                self.torchserve.system(name, value)
            for gpu in gpus.READER.read():
                self.torchserve.gpu(gpu)

    def _read_workers(self) -> None:
        for version in self.served():
            for worker in version.workers():
                if worker.load_seconds:
                    self._loaded(version, worker)

    def _loaded(self, version: Served, worker: WorkerFigures) -> None:
        milliseconds = int(worker.load_seconds * 1000)
        self.torchserve.worker_loaded(str(worker.id), version.config.name, version.config.version, milliseconds)

    def _sample_forever(self) -> None:
        while not self._stop.is_set():
            self._read_system()
            self._stop.wait(self._interval)
