"""Where metrics go: the server, once a worker connected it; standard output in TorchServe's format, before."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

#: {"name", "value", "unit", "type" (COUNTER, GAUGE, HISTOGRAM), "dimensions" {name: value}, "request_ids" [text], "timestamp" s}
Emit = Callable[[Mapping[str, Any]], None]


def _print(metric: Mapping[str, Any]) -> None:
    dimensions = ",".join(f"{name}:{value}" for name, value in metric["dimensions"].items())
    line = f"[METRICS]{metric['name']}.{metric['unit']}:{metric['value']}|#{dimensions}|#type:{metric['type']}"
    end = ",".join([socket.gethostname(), str(metric["timestamp"]), *metric["request_ids"]])
    sys.stdout.write(f"{line}|#hostname:{end}\n")


_emit: Emit = _print


def connect(emit: Emit) -> None:
    """Sends every metric of this process to `emit` from now on."""
    global _emit
    _emit = emit


def emit(metric: Mapping[str, Any]) -> None:
    _emit(metric)
