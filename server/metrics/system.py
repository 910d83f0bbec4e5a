"""The machine's figures as TorchServe names them, read when they are asked for."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator

import psutil

MEGABYTE, GIGABYTE = 1 << 20, 1 << 30
MAX_AGE_S = 1.0


class SystemFigures:
    """CPU, memory and disk of this machine; values younger than `MAX_AGE_S` are not read again. Threads: any.

    The processors' times are kept here: `psutil.cpu_percent` counts for each thread that asks, and says 0 to a new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -MAX_AGE_S
        self._values: list[tuple[str, float]] = []
        self._busy, self._total = _times()

    def utilization(self) -> float:
        """How busy all cores are, from 0 to 1."""
        return dict(self.read())["CPUUtilization"] / 100

    def read(self) -> list[tuple[str, float]]:
        """(name, value) in the units of TorchServe's metrics."""
        with self._lock:
            if time.monotonic() - self._read_at >= MAX_AGE_S:
                self._values, self._read_at = [("CPUUtilization", self._percent()), *_values()], time.monotonic()
            return self._values

    def _percent(self) -> float:
        """How busy all cores were since the last call."""
        busy, total = _times()
        passed = total - self._total
        percent = round(100 * (busy - self._busy) / passed, 1) if passed > 0 else 0.0
        self._busy, self._total = busy, total
        return min(100.0, max(0.0, percent))


def _times() -> tuple[float, float]:
    """Seconds that the cores were busy, and all of their seconds, since the machine started."""
    times = psutil.cpu_times()._asdict()
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)  # which `user` and `nice` hold too
    return total - times["idle"] - times.get("iowait", 0.0), total


def _values() -> Iterator[tuple[str, float]]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage("/")
    yield "MemoryUsed", memory.used / MEGABYTE
    yield "MemoryAvailable", memory.available / MEGABYTE
    yield "MemoryUtilization", memory.percent
    yield "DiskUsage", disk.used / GIGABYTE
    yield "DiskAvailable", disk.free / GIGABYTE
    usable = disk.used + disk.free  # without what is reserved for root, as psutil and df count it
    yield "DiskUtilization", round(100.0 * disk.used / max(1, usable), 1)
