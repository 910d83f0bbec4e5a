"""`GpuFigures`: what one GPU was doing at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuFigures:
    """`utilization` and `memory_utilization` (of its bandwidth) in percent, memory in MiB, power in watts.

    `energy` is in joules since the driver was loaded, 0 where it is not known (nvidia-smi does not tell).
    """

    index: int
    uuid: str
    utilization: float
    memory_utilization: float
    memory_used: float
    memory_total: float
    power_usage: float = 0.0
    power_limit: float = 0.0
    energy: float = 0.0
