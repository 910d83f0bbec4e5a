from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jitney.server.process.cores import computes_bf16, cpu_quota, gpus, usable_cores, wanted_threads


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_version_2_takes_the_strictest_of_the_group_and_all_above_it(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a/b/c\n")
    write(tmp_path / "sys/fs/cgroup/a/cpu.max", "150000 100000\n")
    write(tmp_path / "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    write(tmp_path / "sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    assert usable_cores(tmp_path) == min(2, len(os.sched_getaffinity(0)))


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "3:memory:/x\n2:cpu,cpuacct:/x\n")
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cpu_quota(tmp_path) == 0.5
    assert usable_cores(tmp_path) == 1


def test_a_container_whose_own_group_is_the_root(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/../../docker/abc\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "100000 100000\n")
    assert cpu_quota(tmp_path) == 1.0


@pytest.mark.parametrize("text", ["", "nonsense", "1 0", "1 2 3"])
def test_unreadable_quotas_are_no_quotas(tmp_path: Path, text: str) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", text)
    assert cpu_quota(tmp_path) is None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs according to the driver, and no nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)
    return tmp_path


def nvidia_smi(machine: Path, script: str) -> None:
    tool = machine / "bin/nvidia-smi"
    write(tool, f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("1", [0]),
        ("1,0", [0, 1]),
        ("0,5,1", [0]),
        ("GPU-aaaa, GPU-bbbb", [0, 1]),
        ("0,1,0", [0, 1]),
    ],
)
def test_cuda_visible_devices(machine: Path, visible: str | None, expected: list[Any]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus(environ, machine) == expected


def test_no_driver_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gpus({}, tmp_path) == []
    assert gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == []


def test_nvidia_smi_is_asked_first_because_it_knows_the_container(machine: Path) -> None:
    nvidia_smi(machine, "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'; echo '  MIG 1g.18gb Device 0: (UUID: MIG-1)'")
    assert gpus({}, machine) == [0]


def test_a_failing_nvidia_smi_is_not_believed(machine: Path) -> None:
    nvidia_smi(machine, "echo 'no devices'; exit 9")
    assert gpus({}, machine) == [0, 1]


def test_wanted_threads() -> None:
    assert wanted_threads({}) == 0
    assert wanted_threads({"OMP_NUM_THREADS": "3"}) == 3
    assert wanted_threads({"OMP_NUM_THREADS": "4,2"}) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("model name : made for bf16\n", False),
        ("", False),
    ],
)
def test_which_processors_are_quick_at_bfloat16(tmp_path: Path, text: str, expected: bool) -> None:
    assert not computes_bf16(tmp_path)
    write(tmp_path / "proc/cpuinfo", text)
    assert computes_bf16(tmp_path) is expected
