"""How busy this machine's cores were, and how much of that was somebody else's work: a benchmark on a busy machine says so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """Core-seconds since the machine's start: there were `total`, `busy` were used, `ours` by the processes watched."""

    total: float
    busy: float
    ours: float

    def since(self, before: Usage) -> tuple[float, float]:
        """The shares of all cores' time since then that were busy, and that were busy with others' work."""
        total = max(self.total - before.total, 1e-9)
        busy = (self.busy - before.busy) / total
        return min(1.0, busy), min(1.0, max(0.0, busy - (self.ours - before.ours) / total))


def usage(processes: Sequence[int]) -> Usage:
    """Now. Watched are `processes` with all below them, and this one with the children that have ended."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # guests count as user already
    own = os.times()
    ours = own.user + own.system + own.children_user + own.children_system
    for process in processes:
        ours += sum(_spent(member) for member in _family(process))
    return Usage(total, total - idle, ours)


def _family(process: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
