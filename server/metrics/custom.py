"""Metrics that Python models declare themselves (`pb_utils.MetricFamily`); what all instances report is summed up."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ...core.histogram import Histogram
from .text import Family, Kind

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_KINDS: dict[str, Kind] = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
#: Series that all models together may have: a label with a new value for each request would grow without end.
MAX_SERIES = 10_000

Labels = tuple[tuple[str, str], ...]


class CustomMetrics:
    """Families by name. Thread-safe. A family keeps the kind that it was first declared with."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[Kind, str]] = {}
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, Histogram]] = {}
        self._series = 0
        self._dropped: set[tuple[str, Kind]] = set()  # what was said already

    def take(self, metric: Mapping[str, Any]) -> None:
        """Applies one change: name, description, kind, labels, buckets, verb (declare, increment, set, observe), value.

        "declare" shows a series before anything was counted.
        """
        name, kind = str(metric["name"]), _KINDS.get(str(metric["kind"]))
        if kind is None or not _NAME.fullmatch(name):
            log.warning("a model's metric was dropped: name %r, kind %r", name, metric["kind"])
            return
        labels = tuple(sorted((str(k), str(v)) for k, v in metric["labels"].items()))
        with self._lock:
            self._kinds.setdefault(name, (kind, str(metric["description"])))
            known = self._kinds[name][0]
            if known == kind and self._has_room(name, labels):
                self._apply(name, labels, metric)
            is_news = known != kind and (name, kind) not in self._dropped
            if is_news:
                self._dropped.add((name, kind))
        if is_news:
            log.warning("a model's metric was dropped: '%s' is a %s already, and cannot be a %s too", name, known, kind)

    def _has_room(self, name: str, labels: Labels) -> bool:
        known = labels in self._values.get(name, {}) or labels in self._histograms.get(name, {})
        if not known:
            self._series += 1
        return known or self._series <= MAX_SERIES

    def _apply(self, name: str, labels: Labels, metric: Mapping[str, Any]) -> None:
        value = float(metric["value"])
        if metric["buckets"] or metric["verb"] == "observe":
            series = self._histograms.setdefault(name, {})
            histogram = series.setdefault(labels, Histogram(sorted(set(metric["buckets"]))))
            if metric["verb"] == "observe":
                histogram.observe(value)
            return
        values = self._values.setdefault(name, {})
        values[labels] = value if metric["verb"] == "set" else values.get(labels, 0.0) + value

    def families(self) -> Iterator[Family]:
        with self._lock:
            for name, (kind, about) in self._kinds.items():
                family = Family(name, kind, about)
                for labels, value in self._values.get(name, {}).items():
                    family.add(dict(labels), value)
                for labels, histogram in self._histograms.get(name, {}).items():
                    family.add_histogram(dict(labels), histogram.copy())
                yield family
