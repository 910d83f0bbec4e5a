"""TorchServe's metrics: what is declared (metrics.yaml or the defaults), their values, and where they go by mode.

    prometheus   all of them are scraped
    log          each change is a line in the log `jitney.metrics` or `jitney.model_metrics`; the scrape is empty
    legacy       three counters (ts_inference_*, ts_queue_*) are scraped, the others are logged

Undeclared metrics of handlers are dropped unless `model_metrics_auto_detect` is set.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ...core.errors import InvalidConfig
from ...core.histogram import Histogram
from ..process.written_together import write
from .request_counters import Series
from .text import Family, Kind

if TYPE_CHECKING:
    from ...backends.gpus import GpuFigures
    from ...core.call import Times

#: What is declared where no other file is named; handlers' `ts` reads the same file.
DEFAULTS = Path(__file__).parents[2] / "backends/compat/ts/configs/metrics.yaml"
_FAMILIES = {2: "Requests2XX", 4: "Requests4XX"}
LEGACY = ("ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds")
#: Prometheus' default bounds, which TorchServe's histograms have.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

#: What Prometheus takes as a metric's name, and as a label's.
_NAME, _LABEL = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*"), re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

logger = logging.getLogger(__name__)
_log, _model_log = logging.getLogger("jitney.metrics"), logging.getLogger("jitney.model_metrics")


#: A metric's name, a value for it, labels, and a name that only equal labels have.
Change = tuple[str, float, Mapping[str, str], str]


@dataclass(frozen=True)
class Declaration:
    """One metric of metrics.yaml."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    of_model: bool = False

    def family(self) -> Family:
        about = f"Torchserve prometheus {self.kind} metric with unit: {self.unit}"
        return Family(self.name, self.kind, about, comma=True)


def read_declarations(path: str) -> list[Declaration]:
    """The metrics that a metrics.yaml declares, or the default ones for ""; InvalidConfig names file and entry."""
    try:
        document = yaml.safe_load((Path(path) if path else DEFAULTS).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidConfig(f"metrics_config={path}: {error}") from None
    found = []
    for section in ("ts_metrics", "model_metrics"):
        kinds = (document or {}).get(section) or {}
        for kind, entries in kinds.items():
            found += [_declaration(path, section, kind, entry) for entry in entries or ()]
    return found


def _declaration(path: str, section: str, kind: Any, entry: Any) -> Declaration:
    where = f"metrics_config={path}: {section}.{kind}"
    if kind != "counter" and kind != "gauge" and kind != "histogram":
        raise InvalidConfig(f"{where}: expected counter, gauge or histogram")
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InvalidConfig(f"{where}: expected entries with name, unit and dimensions, got {entry!r}")
    labels = tuple(str(label) for label in entry.get("dimensions") or ())
    of_model = section == "model_metrics"
    if of_model and "Hostname" not in labels:
        labels += ("Hostname",)
    return Declaration(entry["name"], kind, str(entry.get("unit", "")), labels, of_model)


class TorchServeMetrics:
    """Values of the declared metrics. Thread-safe; one change is one dictionary entry under one lock."""

    def __init__(self, mode: str = "prometheus", config: str = "", auto_detect: bool = False) -> None:
        self.mode, self._auto_detect = mode, auto_detect
        self.hostname = socket.gethostname()
        self._declared = {declaration.name: declaration for declaration in read_declarations(config)}
        self._values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in self._declared}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}
        self._versions: dict[str, tuple[dict[str, str], str]] = {}
        self._series: dict[tuple[str, str], Series | None] = {}
        self._lines: dict[tuple[str, str], tuple[str, str] | None] = {}
        self.lock = threading.Lock()
        self._host = {"Level": "Host", "Hostname": self.hostname}

    # -- the server's own -------------------------------------------------------------------------------------------------

    def responded(self, status: int) -> None:
        """Counts an HTTP answer on any port."""
        name = _FAMILIES.get(status // 100, "Requests5XX")
        series = self._series.get((name, ""))
        if series is None:
            self._record(((name, 1.0, self._host, ""),))
            return
        values, key, _ = series
        with self.lock:
            values[key] = values.get(key, 0.0) + 1.0

    def requested(self, model: str, version: str | None) -> None:
        """Counts a request for a model that exists; `version` None where the URL had none."""
        self._record(((LEGACY[0], 1.0, *self._versioned(model, version)),))

    def answered(self, model: str, version: str | None, times: Times) -> None:
        """Adds the times of a request that the model answered, up to now.

        WorkerThreadTime is what its way to the worker and back took beyond the worker's own time.
        """
        queued = max(0, times.dispatched - times.arrived)
        labels, name = self._versioned(model, version)
        in_worker = times.compute_input + times.compute_infer + times.compute_output
        on_the_way = max(0, times.answered - times.dispatched - in_worker)
        self._record(
            (
                (LEGACY[1], (time.monotonic_ns() - times.arrived) / 1000, labels, name),
                (LEGACY[2], queued / 1000, labels, name),
                ("QueueTime", float(queued // 1_000_000), self._host, ""),
                ("WorkerThreadTime", float(on_the_way // 1_000_000), self._host, ""),
            )
        )

    @property
    def silent(self) -> bool:
        """Whether a change has no reader: it goes to a log, which is switched off."""
        return self.mode == "log" and not _log.isEnabledFor(logging.INFO)

    def series_of(self, model: str, version: str | None) -> list[Series] | None:
        """What every request changes, for `RequestCounters`; None where one is not scraped, or not of its usual kind."""
        labels, name = self._versioned(model, version)
        places = [(metric, labels, name) for metric in LEGACY]
        places += [(metric, self._host, "") for metric in ("QueueTime", "WorkerThreadTime", "Requests2XX")]
        found = [self._find_series(*place) for place in places]
        counts = [series[2] for series in found if series is not None]
        return [series for series in found if series] if counts == [True, True, True, False, False, True] else None

    def worker_loaded(self, worker: str, model: str, version: str, milliseconds: int) -> None:
        """How long a worker took from its start until it was ready."""
        labels = {"WorkerName": f"W-{worker}-{model}_{version}", **self._host}
        self.update("WorkerLoadTime", float(milliseconds), labels)

    def executed(self, model: str, durations: Sequence[int], request_ids: Sequence[str]) -> None:
        """HandlerTime and PredictionTime of a batch of an archive whose handler a tensor backend stands in for, of which the
        worker tells no metrics: what it took there, in nanoseconds (input, infer, output)."""
        if self.mode == "log" and not _model_log.isEnabledFor(logging.INFO):
            return
        labels = {"ModelName": model, "Level": "Model", "Hostname": self.hostname}
        milliseconds, ids = round(sum(durations) / 1e6, 2), ",".join(request_ids)
        for name in ("HandlerTime", "PredictionTime"):
            self.update(name, milliseconds, labels, ids)

    def system(self, name: str, value: float) -> None:
        self.update(name, value, self._host)

    def gpu(self, figures: GpuFigures) -> None:
        labels = {"Level": "Host", "DeviceId": str(figures.index), "Hostname": self.hostname}
        self.update("GPUUtilization", figures.utilization, labels)
        self.update("GPUMemoryUsed", figures.memory_used, labels)
        self.update("GPUMemoryUtilization", round(100 * figures.memory_used / max(1.0, figures.memory_total), 2), labels)

    def _versioned(self, model: str, version: str | None) -> tuple[dict[str, str], str]:
        """Labels of a version that serves, and a name for them; made once, since every request needs them."""
        name = f"{model}\0{version}"
        found = self._versions.get(name)
        if found is None:
            labels = {"model_name": model, "model_version": version or "default", "hostname": self.hostname}
            found = self._versions[name] = (labels, name)
        return found

    # -- handlers' -------------------------------------------------------------------------------------------------------

    def from_handler(self, metric: Mapping[str, Any]) -> None:
        """Takes a metric that a handler emitted: name, value, unit, type, dimensions, request_ids.

        Dimensions that the handler names itself stay as they are; Hostname is appended where it names none. What does not
        fit the declaration is logged and dropped, as in TorchServe, which compares the number of dimensions only.
        """
        if self.mode == "log" and not _model_log.isEnabledFor(logging.INFO):
            return
        name, labels = str(metric["name"]), {str(k): str(v) for k, v in metric["dimensions"].items()}
        labels = {**labels, "Hostname": labels.get("Hostname", self.hostname)}
        if name not in self._declared:
            if not self._auto_detect or not self._can_declare(name, labels):
                return
            self._declare(Declaration(name, _kind(metric["type"]), str(metric["unit"]), tuple(labels), of_model=True))
        declared = self._declared[name].labels
        if set(labels) != set(declared):
            logger.error("metric '%s' was not updated: its dimensions are %s, got %s", name, list(declared), list(labels))
            return
        ordered = {label: labels[label] for label in declared}
        self.update(name, float(metric["value"]), ordered, ",".join(metric.get("request_ids", ())))

    def _can_declare(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether Prometheus takes these names; a log takes any."""
        if not self._scraped(name) or (_NAME.fullmatch(name) and all(map(_LABEL.fullmatch, labels))):
            return True
        logger.error(
            "metric '%s' with the dimensions %s cannot be exported: expected letters, digits, _", name, list(labels)
        )
        return False

    def _declare(self, declaration: Declaration) -> None:
        with self.lock:
            self._declared = {**self._declared, declaration.name: declaration}
            self._values.setdefault(declaration.name, {})

    # -- values ----------------------------------------------------------------------------------------------------------

    def update(self, name: str, value: float, labels: Mapping[str, str], request_ids: str = "") -> None:
        """Adds to a counter, sets a gauge, observes in a histogram. Undeclared metrics are dropped."""
        declaration = self._declared.get(name)
        if declaration is None:
            return
        if self._scraped(name):
            self._store(declaration, value, tuple(labels.get(label, "") for label in declaration.labels))
        else:
            self._write(declaration, value, labels, request_ids)

    def _record(self, changes: Sequence[Change]) -> None:
        """`update` for what happens with every request: one lock for all, and series that are looked up once."""
        found = [self._find_series(name, labels, labels_name) for name, _, labels, labels_name in changes]
        with self.lock:
            for series, change in zip(found, changes, strict=True):
                if series is not None:
                    values, key, counts = series
                    values[key] = values.get(key, 0.0) + change[1] if counts else change[1]
        if None in found and not self.silent:
            others = [change for series, change in zip(found, changes, strict=True) if series is None]
            write(_log, [line for change in others if (line := self._line(*change))])

    def _line(self, name: str, value: float, labels: Mapping[str, str], labels_name: str) -> str:
        """A change's line in the server's log; "" for one that is to be found elsewhere by now, or is dropped."""
        place = name, labels_name
        if place not in self._lines:
            declared = self._declared.get(name)
            logged = declared is not None and not declared.of_model and not self._scraped(name)
            self._lines[place] = self._around(declared, labels) if declared is not None and logged else None
        around = self._lines[place]
        if around is None:
            self.update(name, value, labels)
            return ""
        return f"{around[0]}{value}{around[1]}{int(time.time())}"

    def _find_series(self, name: str, labels: Mapping[str, str], labels_name: str) -> Series | None:
        """Where a metric's value is; None where it is no plain number that is scraped."""
        place = name, labels_name
        if place in self._series:
            return self._series[place]
        declaration, series = self._declared.get(name), None
        if declaration is not None and declaration.kind != "histogram" and self._scraped(name):
            key = tuple(labels.get(label, "") for label in declaration.labels)
            series = self._values[name], key, declaration.kind == "counter"
        self._series[place] = series
        return series

    def _scraped(self, name: str) -> bool:
        return self.mode == "prometheus" or (self.mode == "legacy" and name in LEGACY)

    def _store(self, declaration: Declaration, value: float, key: tuple[str, ...]) -> None:
        with self.lock:
            if declaration.kind == "histogram":
                series = self._histograms.setdefault(declaration.name, {})
                series.setdefault(key, Histogram(BOUNDS)).observe(value)
                return
            values = self._values[declaration.name]
            values[key] = values.get(key, 0.0) + value if declaration.kind == "counter" else value

    def _write(self, declaration: Declaration, value: float, labels: Mapping[str, str], request_ids: str) -> None:
        log = _model_log if declaration.of_model else _log
        if not log.isEnabledFor(logging.INFO):
            return
        head, tail = self._around(declaration, labels, request_ids)
        write(log, [f"{head}{float(value)}{tail}{int(time.time())}"])

    def _around(self, declaration: Declaration, labels: Mapping[str, str], request_ids: str = "") -> tuple[str, str]:
        """What stands before a value in its line, and what between the value and the seconds."""
        own = {name: text for name, text in labels.items() if name.lower() != "hostname" or text != self.hostname}
        shown = ",".join(f"{name}:{text}" for name, text in own.items())
        ids = f"requestID:{request_ids or 'null'}," if declaration.of_model else ""
        return f"{declaration.name}.{declaration.unit}:", f"|#{shown}|#hostname:{self.hostname},{ids}timestamp:"

    def families(self) -> Iterator[Family]:
        """What a scrape shows: every declared metric that is scraped in this mode, with or without values."""
        for name, declaration in self._declared.items():
            if not self._scraped(name):
                continue
            family = declaration.family()
            with self.lock:
                values = dict(self._values[name])
                histograms = {key: found.copy() for key, found in self._histograms.get(name, {}).items()}
            for key in sorted(values):
                family.add(dict(zip(declaration.labels, key, strict=True)), values[key])
            for key, histogram in histograms.items():
                family.add_histogram(dict(zip(declaration.labels, key, strict=True)), histogram)
            yield family


def _kind(name: object) -> Kind:
    return {"COUNTER": "counter", "HISTOGRAM": "histogram"}.get(str(name), "gauge")  # type: ignore[return-value]
