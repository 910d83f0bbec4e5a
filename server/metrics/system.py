"""The machine's figures as TorchServe names them, read when they are asked for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import psutil

MEGABYTE, GIGABYTE = 1 << 20, 1 << 30


class SystemFigures:
    """CPU, memory and disk of this machine; values younger than `max_age` seconds are not read again."""

    def __init__(self, max_age: float = 1.0) -> None:
        self._max_age = max_age
        self._read_at = -max_age
        self._values: list[tuple[str, float]] = []
        psutil.cpu_percent(None)  # the first call only begins to measure

    def utilization(self) -> float:
        """How busy all cores are, from 0 to 1."""
        return dict(self.read())["CPUUtilization"] / 100

    def read(self) -> Iterator[tuple[str, float]]:
        """(name, value) in the units of TorchServe's metrics."""
        if time.monotonic() - self._read_at >= self._max_age:
            self._values, self._read_at = list(_values()), time.monotonic()
        yield from self._values


def _values() -> Iterator[tuple[str, float]]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage("/")
    yield "CPUUtilization", psutil.cpu_percent(None)
    yield "MemoryUsed", memory.used / MEGABYTE
    yield "MemoryAvailable", memory.available / MEGABYTE
    yield "MemoryUtilization", memory.percent
    yield "DiskUsage", disk.used / GIGABYTE
    yield "DiskAvailable", disk.free / GIGABYTE
    yield "DiskUtilization", round(100.0 * disk.used / disk.total, 1)
