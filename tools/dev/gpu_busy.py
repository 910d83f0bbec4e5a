"""The share of time in which a GPU is busy, while something else is measured: what `nvidia-smi` samples."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...backends.gpus import READER

#: Milliseconds between samples; NVIDIA's driver averages over a sixth of a second or more.
PERIOD_MS = 200


@contextmanager
def watching(gpu: int | None) -> Iterator[Callable[[float], float | None]]:
    """Samples CUDA device `gpu` until the end; the call gives the mean of the last so many seconds, 0 to 1.

    None without a GPU, without `nvidia-smi`, and where it does not know (a partition of a GPU).
    """
    tool = shutil.which("nvidia-smi")
    found = READER.of_device(gpu) if gpu is not None else None
    if tool is None or found is None:
        yield lambda seconds: None
        return
    command = [tool, f"--id={found.uuid}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    process = subprocess.Popen([*command, f"--loop-ms={PERIOD_MS}"], stdout=subprocess.PIPE, text=True)
    samples: list[tuple[float, float]] = []
    reader = threading.Thread(target=_read, args=(process, samples), name="gpu-busy")
    reader.start()
    try:
        yield lambda seconds: _mean(samples, time.monotonic() - seconds)
    finally:
        process.terminate()
        process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()


def _mean(samples: list[tuple[float, float]], since: float) -> float | None:
    values = [percent for at, percent in list(samples) if at >= since]
    return statistics.fmean(values) / 100 if values else None


def _read(process: subprocess.Popen[str], samples: list[tuple[float, float]]) -> None:
    """On a thread of its own until the process ends: (monotonic seconds, percent)."""
    for line in process.stdout or ():
        try:
            samples.append((time.monotonic(), float(line)))
        except ValueError:
            pass  # "[N/A]"
