"""What the machine's GPUs are doing, read in the background. The server itself never opens a GPU.

NVML is asked where the package `nvidia-ml-py` is installed, else the program `nvidia-smi`, which may take seconds: a thread asks,
and requests get what it found last.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

from . import nvml
from .gpu_figures import GpuFigures

__all__ = ["READER", "GpuFigures", "GpuReader"]

_QUERY = "index,uuid,utilization.gpu,utilization.memory,memory.used,memory.total,power.draw,power.limit"
_TIMEOUT_S = 5.0
#: Seconds for which the thread goes on after somebody has asked: longer than between two scrapes.
_INTEREST_S = 90.0
#: Seconds for which who asks waits at most where there are no figures yet, or old ones only.
_PATIENCE_S = 1.0
_log = logging.getLogger(__name__)

Source = Callable[[], tuple[GpuFigures, ...]]


class GpuReader:
    """Figures that are at most some `max_age` seconds old, while somebody asks again and again. Threads: any.

    The thread that reads them is there while they are asked for, and never where there is no GPU.
    """

    def __init__(self, max_age: float = 1.0, interest: float = _INTEREST_S) -> None:
        self._max_age, self._interest = max_age, interest
        self._changed = threading.Condition()
        self._source: Source | None = None
        self._looked = False  # for a source, of which a machine does not get one while it runs
        self._thread: threading.Thread | None = None
        self._asked_at = self._read_at = -float("inf")
        self._found: tuple[GpuFigures, ...] = ()

    def read(self) -> tuple[GpuFigures, ...]:
        """All GPUs; none where there is no way to ask, or it fails.

        Returns at once where figures are at hand; else it waits for them for a moment, and does without where they take longer.
        """
        with self._changed:
            if not self._looked:
                self._source, self._looked = source(), True
            if self._source is None:
                return ()
            self._asked_at = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._source,), name="gpu-figures", daemon=True)
                self._thread.start()
            self._changed.wait_for(self._is_fresh, _PATIENCE_S)
            return self._found

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at <= 2 * self._max_age

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

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _run(self, ask: Source) -> None:
        while True:
            try:
                found = ask()
            except Exception as error:  # noqa: BLE001 - a driver that is being replaced must not end the figures for good
                _log.debug("the GPUs cannot be asked: %s", error)
                found = ()
            with self._changed:
                self._found, self._read_at = found, time.monotonic()
                self._changed.notify_all()
                if time.monotonic() - self._asked_at >= self._interest:
                    self._thread = None
                    return
            time.sleep(self._max_age)


#: Of this process.
READER = GpuReader()


def source() -> Source | None:
    """How the GPUs of this machine can be asked; None where there is no way."""
    library = nvml.opened()
    if library is not None:
        return library.read
    return _ask if shutil.which("nvidia-smi") else None


def _ask() -> tuple[GpuFigures, ...]:
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
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
