"""What tritonserver's `--trace-config` says: which requests are traced, and where traces go.

One entry is `setting=value`, or `mode,setting=value`, where settings may follow each other with commas between them; several
entries stand with blanks between them, quoted as a shell does. Names, defaults and meanings are Triton's (its user guide, page
"Triton Server Trace").
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

TRITON, OPENTELEMETRY = "triton", "opentelemetry"
MODES = (TRITON, OPENTELEMETRY)
OFF, TIMESTAMPS, TENSORS = "OFF", "TIMESTAMPS", "TENSORS"
LEVELS = (OFF, TIMESTAMPS, TENSORS)
MAX_RATE, MAX_COUNT = 2**32 - 1, 2**31 - 1
#: Settings that belong to one mode; all others are of both.
_OF_MODE = {
    "file": TRITON,
    "log-frequency": TRITON,
    **dict.fromkeys(
        ("url", "resource", "bsp_max_queue_size", "bsp_schedule_delay", "bsp_max_export_batch_size"), OPENTELEMETRY
    ),
}
_KNOWN = ("mode", "level", "rate", "count", *_OF_MODE)
#: tritonserver's older flags, and what they are called in an entry.
FLAGS = {
    "trace_file": "triton,file",
    "trace_log_frequency": "triton,log-frequency",
    "trace_level": "level",
    "trace_rate": "rate",
    "trace_count": "count",
}


@dataclass(frozen=True)
class TraceConfig:
    """What holds at the start.

    rate           every so many-th request is traced; 0 = only those whose client traces them (opentelemetry)
    count          traces that are made until no more are; -1 = any number
    log_frequency  traces in each of the numbered files; 0 = one file
    url            where OTLP is taken over HTTP, "" = OTEL_EXPORTER_OTLP_ENDPOINT, or this machine's port 4318
    bsp_*          of requests and milliseconds; None = OTEL_BSP_* of the environment, or OpenTelemetry's default
    """

    mode: str = TRITON
    level: tuple[str, ...] = (OFF,)
    rate: int = 1000
    count: int = -1
    file: str = ""
    log_frequency: int = 0
    url: str = ""
    resource: Mapping[str, str] = field(default_factory=dict)
    bsp_max_queue_size: int | None = None
    bsp_schedule_delay: int | None = None
    bsp_max_export_batch_size: int | None = None

    def within(self, cwd: Path) -> TraceConfig:
        """The same with an absolute path."""
        return replace(self, file=str(cwd / self.file)) if self.file else self


def parse(text: str) -> TraceConfig:
    """Reads all entries; ValueError says which one is wrong, and what was expected."""
    given: dict[str, Any] = {}
    levels: list[str] = []
    resource: dict[str, str] = {}
    try:
        entries = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"expected entries with blanks between them: {error}") from None
    for name, value in (pair for entry in entries for pair in _pairs(entry)):
        if name == "level":
            levels.append(value)
        elif name == "resource":
            key, equals, said = value.partition("=")
            if not key or not equals:
                raise ValueError(f"expected resource=key=value, got 'resource={value}'")
            resource[key] = said
        else:
            given[name.replace("-", "_")] = _value(name, value)
    config = TraceConfig(**given, resource=resource, level=levels_of(levels) if levels else (OFF,))
    if reason := problem(config.mode, config.level, config.rate, config.file):
        raise ValueError(reason)
    return config


def _pairs(entry: str) -> Iterable[tuple[str, str]]:
    """The settings of one entry. What has no `=` after a comma belongs to the value before it."""
    mode, found = "", list[tuple[str, str]]()
    for at, part in enumerate(entry.split(",")):
        name, equals, value = part.partition("=")
        if at == 0 and not equals and part in MODES:
            mode = part
        elif equals and name in _KNOWN:
            if mode and _OF_MODE.get(name, mode) != mode:
                raise ValueError(f"'{entry}': {name} is a setting of mode {_OF_MODE[name]}")
            found.append((name, value))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]},{part}")
        else:
            raise ValueError(f"expected [mode,]setting=value with a setting of {', '.join(_KNOWN)}, got '{entry}'")
    if not found:
        raise ValueError(f"expected {entry},setting=value, or mode={entry}")
    return found


def _value(name: str, value: str) -> str | int:
    if name == "mode":
        if value not in MODES:
            raise ValueError(f"expected mode={' or mode='.join(MODES)}, got 'mode={value}'")
        return value
    if name in ("file", "url"):
        return value
    low, high = (-1, MAX_COUNT) if name == "count" else (0, MAX_RATE) if name == "rate" else (0, MAX_COUNT)
    low = 1 if name.startswith("bsp_max") else low
    if not value.lstrip("-").isdecimal() or not low <= int(value) <= high:
        raise ValueError(f"expected {name} from {low} to {high}, got '{name}={value}'")
    return int(value)


def levels_of(given: Iterable[str]) -> tuple[str, ...]:
    """The levels in their order; ValueError for unknown ones, and for OFF beside others. MIN and MAX are older names (Triton)."""
    levels = {TIMESTAMPS if level in ("MIN", "MAX") else level for level in given}
    if not levels <= {*LEVELS}:
        raise ValueError(f"expected levels of {', '.join(LEVELS)}, got '{','.join(sorted(levels - {*LEVELS}))}'")
    if OFF in levels and len(levels) > 1:
        raise ValueError("Expect only one trace level 'OFF' is specified")
    return tuple(level for level in LEVELS if level in levels)


def problem(mode: str, level: tuple[str, ...], rate: int, file: str) -> str:
    """Why nothing could be traced with these settings, in Triton's words where it has any; "" where something can."""
    if level == (OFF,):
        return ""
    if mode == OPENTELEMETRY:
        return "mode opentelemetry has no level TENSORS; expected level=TIMESTAMPS" if TENSORS in level else ""
    if not file:
        return "trace file name is not given"
    return "" if rate else "sample rate must be non-zero"
