"""What the machine's GPUs are doing, as `nvidia-smi` reports it. The server itself never opens a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

_QUERY = "index,uuid,utilization.gpu,utilization.memory,memory.used,memory.total,power.draw,power.limit"
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class GpuFigures:
    """`utilization` and `memory_utilization` (of its bandwidth) in percent, memory in MiB, power in watts."""

    index: int
    uuid: str
    utilization: float
    memory_utilization: float
    memory_used: float
    memory_total: float
    power_usage: float = 0.0
    power_limit: float = 0.0


class GpuReader:
    """Asks at most once every `max_age` seconds. Threads: any."""

    def __init__(self, max_age: float = 1.0) -> None:
        self._max_age, self._lock = max_age, threading.Lock()
        self._read_at, self._found = -max_age, tuple[GpuFigures, ...]()

    def read(self) -> tuple[GpuFigures, ...]:
        """All GPUs; none where there is no `nvidia-smi` or it fails."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._max_age:
                self._found, self._read_at = _ask(), time.monotonic()
            return self._found

    def of_device(self, device: int, environ: Mapping[str, str] | None = None) -> GpuFigures | None:
        """The GPU that workers know by this CUDA number, which CUDA_VISIBLE_DEVICES decides."""
        visible = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
        name = str(device)
        if visible is not None:
            names = [entry.strip() for entry in visible.split(",")]
            if device >= len(names):
                return None
            name = names[device]
        return next((gpu for gpu in self.read() if name == str(gpu.index) or (name and gpu.uuid.startswith(name))), None)


#: Of this process.
READER = GpuReader()


def _ask() -> tuple[GpuFigures, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(found for line in answer.splitlines() if (found := _parse(line)) is not None)


def _parse(line: str) -> GpuFigures | None:
    """One line of the answer; a figure that the GPU does not report ("[N/A]") is 0."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(_QUERY.split(",")) or not fields[0].isdigit():
        return None
    return GpuFigures(int(fields[0]), fields[1], *(_number(field) for field in fields[2:]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
