"""What this machine lets us use: CPU cores (affinity, cgroup quota) and GPUs. No torch needed."""

from __future__ import annotations

import functools
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
_NVIDIA_SMI_TIMEOUT_S = 20.0


def usable_cores(root: Path = Path("/")) -> int:
    """Cores this process may keep busy: its affinity, or its cgroup's CPU quota where that is less; at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def computes_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bfloat16 (AVX-512 BF16, AMX, Arm's BF16); without it, it is slower than float32."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(
        name.strip() in ("flags", "Features") and not _BF16.isdisjoint(flags.split())
        for name, _, flags in (line.partition(":") for line in text.splitlines())
    )


def wanted_threads(environ: Mapping[str, str] | None = None) -> int:
    """The threads that the operator wants each worker to use (OMP_NUM_THREADS); 0 = no wish."""
    text = (os.environ if environ is None else environ).get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() else 0


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The strictest CPU quota, in cores, of this process's cgroup and all above it (version 1 and 2); None = no limit."""
    quotas = [quota for folder in cgroups("cpu", root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def cgroups(controller: str, root: Path = Path("/")) -> list[Path]:
    """The folders that may limit this process's share of "cpu", "memory" or "pids".

    In a container the group's path may not exist: then only its root does.
    """
    mount, folders = root / "sys/fs/cgroup", []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        bases = [mount / controllers, mount / controller] if controllers else [mount, mount / "unified"]
        steps = [part for part in path.split("/") if part not in ("", "..")]
        folders += [base.joinpath(*steps[:depth]) for base in bases for depth in range(len(steps) + 1)]
    return folders or [mount, mount / controller]


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def gpus(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> list[int]:
    """The CUDA device numbers that workers will see: 0, 1, ...; empty without a GPU or with CUDA_VISIBLE_DEVICES empty.

    CUDA numbers the devices that CUDA_VISIBLE_DEVICES names from 0, and stops at the first entry that is not a device.
    """
    environ = os.environ if environ is None else environ
    present = _present_gpus(root)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return list(range(present))
    return list(range(min(present, _named_devices(visible, present))))


@functools.cache
def machine_gpus() -> tuple[int, ...]:
    """`gpus()` of this machine and environment, found once: asking nvidia-smi can take a second."""
    return tuple(gpus())


def _named_devices(visible: str, present: int) -> int:
    count = 0
    for name in (entry.strip() for entry in visible.split(",")):
        if not name.startswith(("GPU-", "MIG-")) and not (name.isdigit() and int(name) < present):
            break
        count += 1
    return count


def _present_gpus(root: Path) -> int:
    tool = shutil.which("nvidia-smi")
    if tool:
        try:
            listing = subprocess.run(
                [tool, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True
            ).stdout
            return sum(line.startswith("GPU ") for line in listing.splitlines())
        except (OSError, subprocess.SubprocessError):
            pass
    try:
        return len(list((root / "proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return 0
