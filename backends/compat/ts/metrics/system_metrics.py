"""The machine's figures as metrics. The server measures them by itself; this is for handlers that want them too."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import psutil

from jitney.backends import gpus

from .dimension import Dimension
from .metric import Metric

__all__ = [
    "Dimension",
    "Metric",
    "collect_all",
    "cpu_utilization",
    "dimension",
    "disk_available",
    "disk_used",
    "disk_utilization",
    "gpu_utilization",
    "memory_available",
    "memory_used",
    "memory_utilization",
    "system_metrics",
]

system_metrics: list[Metric] = []  #: what was measured, oldest first
dimension = [Dimension("Level", "Host")]
_MB, _GB = 1 << 20, 1 << 30


def _add(name: str, value: float, unit: str, dimensions: list[Dimension] = dimension) -> None:
    system_metrics.append(Metric(name, value, unit, dimensions))


def cpu_utilization() -> None:
    _add("CPUUtilization", psutil.cpu_percent(), "percent")


def memory_used() -> None:
    _add("MemoryUsed", psutil.virtual_memory().used / _MB, "MB")


def memory_available() -> None:
    _add("MemoryAvailable", psutil.virtual_memory().available / _MB, "MB")


def memory_utilization() -> None:
    _add("MemoryUtilization", psutil.virtual_memory().percent, "percent")


def disk_used() -> None:
    _add("DiskUsage", psutil.disk_usage("/").used / _GB, "GB")


def disk_utilization() -> None:
    _add("DiskUtilization", psutil.disk_usage("/").percent, "percent")


def disk_available() -> None:
    _add("DiskAvailable", psutil.disk_usage("/").free / _GB, "GB")


def gpu_utilization(num_of_gpu: int | None) -> None:
    """Memory and use of each GPU, by the driver's nvidia-smi."""
    for gpu in gpus.READER.read() if num_of_gpu else ():
        of_gpu = [*dimension, Dimension("device_id", gpu.index)]
        _add("GPUMemoryUtilization", round(100 * gpu.memory_used / max(1.0, gpu.memory_total), 2), "percent", of_gpu)
        _add("GPUMemoryUsed", gpu.memory_used, "MB", of_gpu)
        _add("GPUUtilization", gpu.utilization, "percent", of_gpu)


def collect_all(mod: Any, num_of_gpu: int | None) -> None:
    """Calls every public function of the module `mod` (this one, usually) and logs all that was measured."""
    for name in dir(mod):
        measure: Callable[..., None] = getattr(mod, name)
        if not isinstance(measure, types.FunctionType) or name.startswith("_") or name == "collect_all":
            continue
        if name == "gpu_utilization":
            measure(num_of_gpu)
        else:
            measure()
    for metric in system_metrics:
        logging.info(str(metric))
