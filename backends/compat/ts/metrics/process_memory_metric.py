"""Memory of processes."""

from __future__ import annotations

import psutil


def check_process_mem_usage(stdin: object) -> list[str]:
    """For each process id in `stdin` (text with commas, or lines of it): "pid:bytes" of resident memory, 0 where it ended."""
    lines = [stdin] if isinstance(stdin, str) else list(stdin)  # type: ignore[call-overload]
    pids = [word.strip() for line in lines for word in str(line).split(",") if word.strip()]
    return [f"{pid}:{_resident(int(pid))}" for pid in pids]


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0
