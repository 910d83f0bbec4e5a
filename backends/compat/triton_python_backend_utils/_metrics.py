"""Custom metrics of a Python model; every change is sent to the server, which shows the sum over instances."""

from __future__ import annotations

import bisect
import enum
import math
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ._arguments import WrongArgument, elements, real, text
from ._errors import TritonModelException
from ._worker import current


class MetricKind(enum.StrEnum):
    """The kinds of metrics, by the words that the server knows them by."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


COUNTER, GAUGE, HISTOGRAM = MetricKind
_NAME, _LABEL = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*"), re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Metric:
    """One labelled series of a family."""

    def __init__(self, family: MetricFamily, labels: dict[str, str], buckets: list[float]) -> None:
        if bool(buckets) != (family.kind == HISTOGRAM):
            raise TritonModelException("buckets are needed for a HISTOGRAM, and only there")
        if sorted(set(buckets)) != buckets or not all(map(math.isfinite, buckets)):
            raise TritonModelException(f"the buckets of a HISTOGRAM must be finite and ascend, got {buckets}")
        self._family, self._labels, self._buckets = family, labels, buckets
        self._value = 0.0
        self._counts = [0] * (len(self._buckets) + 1)
        self._lock = threading.Lock()

    def increment(self, value: float) -> None:
        value = real(value, "value")
        if self._family.kind == HISTOGRAM or (self._family.kind == COUNTER and value < 0):
            raise TritonModelException(f"a {self._family.kind} cannot be incremented by {value}")
        with self._lock:
            self._value += value
        self._send("increment", value)

    def set(self, value: float) -> None:
        value = real(value, "value")
        if self._family.kind != GAUGE:
            raise TritonModelException(f"only a GAUGE can be set, not a {self._family.kind}")
        with self._lock:
            self._value = value
        self._send("set", value)

    def observe(self, value: float) -> None:
        value = real(value, "value")
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
                "kind": family.kind.value,
                "labels": self._labels,
                "buckets": self._buckets,
                "verb": verb,
                "value": value,
            },
        )


class MetricFamily:
    """A named family of one kind: MetricFamily.COUNTER, GAUGE or HISTOGRAM."""

    COUNTER: ClassVar = COUNTER
    GAUGE: ClassVar = GAUGE
    HISTOGRAM: ClassVar = HISTOGRAM

    def __init__(self, name: str, description: str, kind: str = COUNTER) -> None:
        self.name, self.description = text(name, "name"), text(description, "description")
        if not _NAME.fullmatch(self.name):
            raise TritonModelException(
                f"{self.name!r} is no name of a metric: letters, digits, '_' and ':', no digit in front"
            )
        try:
            self.kind = MetricKind(kind)
        except ValueError:
            raise WrongArgument(
                f"unknown kind of metric {kind!r}, expected MetricFamily.COUNTER, GAUGE or HISTOGRAM"
            ) from None

    def Metric(self, labels: Mapping[str, str] | None = None, buckets: Sequence[float] | None = None) -> Metric:  # noqa: N802 - Triton's name
        """One series of the family. `labels` are a dict of text, `buckets` ascending numbers for a HISTOGRAM."""
        return Metric(self, _labels(labels), [] if buckets is None else elements(buckets, "buckets", real))


def _labels(labels: Any) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise WrongArgument(f"labels must be a dict, got {type(labels).__name__}")
    return {_label(name): text(value, f"label {name!r}") for name, value in labels.items()}


def _label(name: Any) -> str:
    found = text(name, "a label's name")
    if not _LABEL.fullmatch(found):
        raise TritonModelException(
            f"{found!r} is no name of a label: letters, digits and '_', no digit and no '__' in front"
        )
    return found
