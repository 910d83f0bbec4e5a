"""JSON documents and Prometheus' text, compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


def kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


@dataclass(frozen=True)
class Documents:
    """How two JSON documents are compared: values at volatile paths by their type only, numbers to a tolerance."""

    volatile: Sequence[re.Pattern[str]] = ()
    any_length: bool = False
    absolute: float = 1e-4
    relative: float = 2e-3

    def differences(self, wanted: Any, got: Any, path: str = "$") -> Iterator[str]:
        if kind_of(wanted) != kind_of(got):
            yield f"{path}: type {kind_of(got)}, wanted {kind_of(wanted)}"
        elif any(pattern.search(path) for pattern in self.volatile):
            return
        elif isinstance(wanted, dict):
            yield from self._objects(wanted, got, path)
        elif isinstance(wanted, list):
            yield from self._arrays(wanted, got, path)
        elif isinstance(wanted, float) or isinstance(got, float):
            both_nan = wanted != wanted and got != got
            if not both_nan and wanted != got and not abs(wanted - got) <= self.absolute + self.relative * abs(wanted):
                yield f"{path}: {got!r}, wanted {wanted!r}"
        elif wanted != got:
            yield f"{path}: {got!r:.200}, wanted {wanted!r:.200}"

    def _objects(self, wanted: dict[str, Any], got: dict[str, Any], path: str) -> Iterator[str]:
        for name, value in wanted.items():
            if name in got:
                yield from self.differences(value, got[name], f"{path}.{name}")
            else:
                yield f"{path}: key {name!r} is missing"
        yield from (f"{path}: extra key {name!r}" for name in got if name not in wanted)

    def _arrays(self, wanted: list[Any], got: list[Any], path: str) -> Iterator[str]:
        if self.any_length and wanted:
            wanted = [wanted[min(index, len(wanted) - 1)] for index in range(len(got))]
        if len(wanted) != len(got):
            yield f"{path}: {len(got)} elements, wanted {len(wanted)}"
            return
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from self.differences(one, other, f"{path}[{index}]")


@dataclass
class Family:
    """One metric: its type, its help, and the labels of its samples."""

    type: str | None = None
    help: str | None = None
    labels: list[dict[str, str]] = field(default_factory=list)

    @property
    def label_names(self) -> list[tuple[str, ...]]:
        return sorted({tuple(sorted(labels)) for labels in self.labels})

    def values(self, label: str) -> list[str]:
        return sorted({str(labels.get(label)) for labels in self.labels})


def families(text: str) -> dict[str, Family]:
    found: dict[str, Family] = {}
    for line in text.split("\n"):
        if told := re.match(r"# (TYPE|HELP) (\S+) (.*)", line):
            setattr(found.setdefault(told[2], Family()), told[1].lower(), told[3])
        elif sample := re.match(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[2] or ""))
            found.setdefault(sample[1], Family()).labels.append(labels)
    return found


def metric_differences(wanted: str, got: str, samples: bool = True) -> Iterator[str]:
    """Families, and with `samples` their labels and the values of those that name models; more families are fine."""
    theirs = families(got)
    for name, family in families(wanted).items():
        other = theirs.get(name)
        if other is None:
            yield f"metric family {name} is missing"
            continue
        if (other.type, other.help) != (family.type, family.help):
            yield f"metric {name}: {other.type}, {other.help!r}, wanted {family.type}, {family.help!r}"
        if samples and other.label_names != family.label_names:
            yield f"metric {name}: label names {other.label_names}, wanted {family.label_names}"
        for label in ("model_name", "model_version", "ModelName", "Level"):
            if samples and other.values(label) != family.values(label):
                yield f"metric {name}: {label} {other.values(label)}, wanted {family.values(label)}"
