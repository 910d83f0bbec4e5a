"""NVIDIA's management library (NVML) through its own Python package `nvidia-ml-py`, where both are there.

It answers in milliseconds, where `nvidia-smi` takes up to a second, and opens no CUDA context. What a card does not report (part
of a MIG card, a power meter that is missing) is 0, as with nvidia-smi.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .gpu_figures import GpuFigures

_MIB = 1 << 20


class Nvml:
    """One initialised library. `read` by one thread at a time."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def read(self) -> tuple[GpuFigures, ...]:
        """All GPUs, in nvidia-smi's order; one that fell off the bus is left out. Raises where the driver is gone."""
        found = []
        for index in range(self._library.nvmlDeviceGetCount()):
            try:
                found.append(self._figures(index, self._library.nvmlDeviceGetHandleByIndex(index)))
            except self._library.NVMLError:
                continue
        return tuple(found)

    def _figures(self, index: int, handle: Any) -> GpuFigures:
        library = self._library
        uuid = library.nvmlDeviceGetUUID(handle)
        rates = self._told(library.nvmlDeviceGetUtilizationRates, handle)
        memory = self._told(library.nvmlDeviceGetMemoryInfo, handle)
        return GpuFigures(
            index,
            uuid.decode() if isinstance(uuid, bytes) else uuid,
            float(rates.gpu) if rates else 0.0,
            float(rates.memory) if rates else 0.0,
            memory.used / _MIB if memory else 0.0,
            memory.total / _MIB if memory else 0.0,
            (self._told(library.nvmlDeviceGetPowerUsage, handle) or 0) / 1000,  # milliwatts
            (self._told(library.nvmlDeviceGetEnforcedPowerLimit, handle) or 0) / 1000,
            (self._told(library.nvmlDeviceGetTotalEnergyConsumption, handle) or 0) / 1000,  # millijoules
        )

    def _told(self, ask: Callable[[Any], Any], handle: Any) -> Any:
        """What the card says, None where it does not report this."""
        try:
            return ask(handle)
        except self._library.NVMLError:
            return None


def opened() -> Nvml | None:
    """NVML, initialised; None where the package, the library or a driver is missing."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    return Nvml(library)
