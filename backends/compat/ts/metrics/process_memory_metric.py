"""Memory of processes."""

from __future__ import annotations

import logging
from typing import Any

import psutil


def get_cpu_usage(pid: str | int) -> int:
    """Resident memory of a process in bytes; 0, and a line in the log, where there is no such process."""
    try:
        return int(psutil.Process(int(pid)).memory_info().rss)
    except (psutil.Error, ValueError) as error:
        logging.error("the memory of process %s cannot be read: %s", pid, error)
        return 0


def check_process_mem_usage(stdin: Any) -> list[str]:
    """Logs and returns "pid:bytes" for each process id in the first line of `stdin` (a file, or text), joined by commas."""
    line = stdin if isinstance(stdin, str) else stdin.readline()
    found = [f"{pid.strip()}:{get_cpu_usage(pid)}" for pid in line.strip().split(",") if pid.strip()]
    for text in found:
        logging.info(text)
    return found
