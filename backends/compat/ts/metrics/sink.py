"""Where metrics go: the server, once a worker connected it; standard output in TorchServe's format, before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

#: {"name", "value", "unit", "type" (COUNTER, GAUGE, HISTOGRAM), "dimensions" {name: value}, "request_ids" [text], "timestamp" s}
Emit = Callable[[Mapping[str, Any]], None]


def _print(metric: Mapping[str, Any]) -> None:
    dimensions = ",".join(f"{name}:{value}" for name, value in metric["dimensions"].items())
    ids = ",".join(metric["request_ids"])
    line = f"[METRICS]{metric['name']}.{metric['unit']}:{metric['value']}|#{dimensions}|#type:{metric['type']}"
    sys.stdout.write(f"{line}|#timestamp:{metric['timestamp']}{',' + ids if ids else ''}\n")


_emit: Emit = _print


def connect(emit: Emit) -> None:
    """Sends every metric of this process to `emit` from now on."""
    global _emit
    _emit = emit


def emit(metric: Mapping[str, Any]) -> None:
    _emit(metric)
