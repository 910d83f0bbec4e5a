"""Custom metrics of a Python model; every change is sent to the server, which shows the sum over instances."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Mapping, Sequence

from ._errors import TritonModelException
from ._worker import current

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Metric:
    """One labelled series of a family."""

    def __init__(self, family: MetricFamily, labels: Mapping[str, str], buckets: Sequence[float]) -> None:
        if bool(buckets) != (family.kind == HISTOGRAM):
            raise TritonModelException("buckets are needed for a HISTOGRAM, and only there")
        self._family, self._labels, self._buckets = family, dict(labels), list(buckets)
        self._value = 0.0
        self._counts = [0] * (len(self._buckets) + 1)
        self._lock = threading.Lock()

    def increment(self, value: float) -> None:
        if self._family.kind == HISTOGRAM or (self._family.kind == COUNTER and value < 0):
            raise TritonModelException(f"a {self._family.kind} cannot be incremented by {value}")
        with self._lock:
            self._value += value
        self._send("increment", value)

    def set(self, value: float) -> None:
        if self._family.kind != GAUGE:
            raise TritonModelException(f"only a GAUGE can be set, not a {self._family.kind}")
        with self._lock:
            self._value = value
        self._send("set", value)

    def observe(self, value: float) -> None:
        if self._family.kind != HISTOGRAM:
            raise TritonModelException(f"only a HISTOGRAM observes, not a {self._family.kind}")
        with self._lock:
            self._counts[bisect.bisect_left(self._buckets, value)] += 1
            self._value += value
        self._send("observe", value)

    def value(self) -> float:
        """This instance's value; for a HISTOGRAM the sum of what it observed."""
        return self._value

    def _send(self, verb: str, value: float) -> None:
        family = self._family
        current().host.emit(
            "metric",
            {
                "source": "python",
                "name": family.name,
                "description": family.description,
                "kind": family.kind,
                "labels": self._labels,
                "buckets": self._buckets,
                "verb": verb,
                "value": float(value),
            },
        )


class MetricFamily:
    """A named family of one kind: MetricFamily.COUNTER, GAUGE or HISTOGRAM."""

    COUNTER = COUNTER
    GAUGE = GAUGE
    HISTOGRAM = HISTOGRAM

    def __init__(self, name: str, description: str, kind: str = COUNTER) -> None:
        if kind not in (COUNTER, GAUGE, HISTOGRAM):
            raise TritonModelException(f"unknown kind of metric {kind!r}")
        self.name, self.description, self.kind = name, description, kind

    def Metric(self, labels: Mapping[str, str] | None = None, buckets: Sequence[float] = ()) -> Metric:  # noqa: N802 - Triton's name
        return Metric(self, labels or {}, buckets)
