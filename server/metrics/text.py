"""Metric families and how they are written down: Prometheus' text format 0.0.4, as TorchServe writes it, or OpenMetrics 1.0.

TorchServe's and Triton's counters have names of their own without `_total`, and TorchServe's labels end with a comma that old
parsers of its output expect; prometheus_client can write neither. Every parser of the format reads both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ...core.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
Kind = Literal["counter", "gauge", "histogram"]


class Exemplar(NamedTuple):
    """A traced request that was counted; `at` in seconds since the epoch."""

    trace_id: str
    value: float
    at: float


@dataclass(frozen=True)
class Sample:
    """One value: `suffix` is what follows the family's name (`_bucket`, `_sum`, `_count` of a histogram)."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    exemplar: Exemplar | None = None


@dataclass
class Family:
    """One metric with all its samples. `comma`: whether labels are written TorchServe's way."""

    name: str
    kind: Kind
    help: str
    samples: list[Sample] = field(default_factory=list)
    comma: bool = False

    def add(self, labels: Mapping[str, str], value: float, suffix: str = "") -> None:
        self.samples.append(Sample(labels, value, suffix))

    def add_histogram(self, labels: Mapping[str, str], histogram: Histogram, exemplars: Sequence[Exemplar] = ()) -> None:
        """`exemplars`: the latest last; a bucket shows the latest one that fell into it."""
        total, below = 0, -math.inf
        for bound, total in histogram.cumulative():
            found = [exemplar for exemplar in exemplars if below < exemplar.value <= bound]
            sample = Sample({**labels, "le": _bound(bound)}, total, "_bucket", found[-1] if found else None)
            self.samples.append(sample)
            below = bound
        self.add(labels, total, "_count")
        self.add(labels, histogram.sum, "_sum")


def render_openmetrics(families: Iterable[Family], names: Sequence[str] = ()) -> bytes:
    """The same in OpenMetrics, with exemplars.

    A counter's samples end with `_total` there, and those of TorchServe and Triton do not: their kind is unknown.
    """
    wanted = frozenset(names)
    lines: list[str] = []
    for family in families:
        samples = [s for s in family.samples if not wanted or family.name + s.suffix in wanted]
        if not samples:
            continue
        name, kind = family.name, str(family.kind)
        if kind == "counter":
            name, kind = (name.removesuffix("_total"), kind) if name.endswith("_total") else (name, "unknown")
        lines += [f"# HELP {name} {_escape(family.help)}", f"# TYPE {name} {kind}"]
        lines += [_line(Family(family.name, family.kind, ""), sample) + _exemplar(sample.exemplar) for sample in samples]
    return "\n".join([*lines, "# EOF", ""]).encode()


def _exemplar(exemplar: Exemplar | None) -> str:
    if exemplar is None:
        return ""
    return f' # {{trace_id="{exemplar.trace_id}"}} {_number(exemplar.value)} {exemplar.at:.3f}'


def render(families: Iterable[Family], names: Sequence[str] = ()) -> bytes:
    """The families as text. With `names`, only samples with one of these exact names, and families that have any."""
    wanted = frozenset(names)
    lines: list[str] = []
    for family in families:
        samples = [s for s in family.samples if not wanted or family.name + s.suffix in wanted]
        if wanted and not samples:
            continue
        lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [_line(family, sample) for sample in samples]
    return "\n".join([*lines, ""]).encode()


def _line(family: Family, sample: Sample) -> str:
    pairs = [f'{name}="{_escape(value)}"' for name, value in sample.labels.items()]
    inner = ",".join(pairs) + ("," if family.comma and pairs else "")
    return f"{family.name}{sample.suffix}{f'{{{inner}}}' if inner else ''} {_number(sample.value)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))


def _bound(value: float) -> str:
    return "+Inf" if math.isinf(value) else repr(float(value))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
