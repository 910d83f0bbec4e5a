"""Custom metrics of a Python model; every change is sent to the server, which shows the sum over instances."""

from __future__ import annotations

import enum
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from ._arguments import WrongArgument, elements, real, text
from ._errors import TritonModelException
from ._worker import current, is_connected


class MetricKind(enum.StrEnum):
    """The kinds of metrics, by the words that the server knows them by."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


COUNTER, GAUGE, HISTOGRAM = MetricKind
Labels = tuple[tuple[str, str], ...]
_NAME, _LABEL = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*"), re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


#: Series whose first value was sent; beyond so many the server takes no more either (server/metrics/custom.py).
_MAX_SHOWN = 10_000
_lock = threading.Lock()
_shown: set[tuple[str, Labels]] = set()


@dataclass(eq=False)
class _Series:
    """What all `Metric`s with the same name and labels share, as long as there is one (Triton's core, metric_family.cc)."""

    value: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


_series: WeakValueDictionary[tuple[str, Labels], _Series] = WeakValueDictionary()


class Metric:
    """One labelled series of a family. It is shown from now on, with 0 at first, and shares its value with others like it."""

    def __init__(self, family: MetricFamily, labels: dict[str, str], buckets: list[float]) -> None:
        if bool(buckets) != (family.kind == HISTOGRAM):
            raise TritonModelException("buckets are needed for a HISTOGRAM, and only there")
        if sorted(set(buckets)) != buckets or not all(map(math.isfinite, buckets)):
            raise TritonModelException(f"the buckets of a HISTOGRAM must be finite and ascend, got {buckets}")
        self._family, self._labels, self._buckets = family, labels, buckets
        key = (family.name, tuple(sorted(labels.items())))
        with _lock:
            self._series = _series.setdefault(key, _Series())
            first = is_connected() and key not in _shown and len(_shown) < _MAX_SHOWN
            if first:
                _shown.add(key)
        if first:
            self._send("declare", 0.0)

    def increment(self, value: float) -> None:
        value = real(value, "value")
        if self._family.kind == HISTOGRAM or (self._family.kind == COUNTER and value < 0):
            raise TritonModelException(f"a {self._family.kind} cannot be incremented by {value}")
        with self._series.lock:
            self._series.value += value
        self._send("increment", value)

    def set(self, value: float) -> None:
        value = real(value, "value")
        if self._family.kind != GAUGE:
            raise TritonModelException(f"only a GAUGE can be set, not a {self._family.kind}")
        with self._series.lock:
            self._series.value = value
        self._send("set", value)

    def observe(self, value: float) -> None:
        value = real(value, "value")
        if self._family.kind != HISTOGRAM:
            raise TritonModelException(f"only a HISTOGRAM observes, not a {self._family.kind}")
        with self._series.lock:
            self._series.value += value
        self._send("observe", value)

    def value(self) -> float:
        """This instance's value; for a HISTOGRAM the sum of what it observed."""
        return self._series.value

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


_families: WeakValueDictionary[str, MetricFamily] = WeakValueDictionary()


class MetricFamily:
    """A named family of one kind: MetricFamily.COUNTER, GAUGE or HISTOGRAM.

    TritonModelException while one of the same name and another kind lives.
    """

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
        with _lock:
            first = _families.setdefault(self.name, self)
        if first.kind != self.kind:
            raise TritonModelException(f"'{self.name}' is a {first.kind} already, and cannot be a {self.kind} too")

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
