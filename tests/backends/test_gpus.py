"""What nvidia-smi says, with a script in its place: on machines without a GPU nothing else can be asked."""

import os
from pathlib import Path

import pytest

from jitney.backends import gpus
from jitney.backends.gpus import GpuReader
from jitney.server.http.torchserve.describe import gpu_usage
from jitney.server.metrics.machine import gpu_families
from jitney.server.metrics.text import render
from jitney.server.metrics.torchserve import TorchServeMetrics

LINES = "0, GPU-aaaa, 17, 4, 678, 81559, 70.5, 400\n1, GPU-bbbb, [N/A], 0, 1000, 2000, [N/A], [N/A]\n"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nvidia-smi that counts how often it is asked."""
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\ncat {tmp_path}/lines\n")
    script.chmod(0o755)
    (tmp_path / "lines").write_text(LINES)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_figures_are_read_once_in_a_while(tool: Path) -> None:
    reader = GpuReader(max_age=60)
    first, second = reader.read()
    assert (first.index, first.utilization, first.memory_used, first.memory_total) == (0, 17.0, 678.0, 81559.0)
    assert second.utilization == 0.0  # not reported
    reader.read()
    assert (tool / "asked").read_text() == "x\n"


@pytest.mark.parametrize(
    ("visible", "device", "index"),
    [(None, 1, 1), ("1,0", 0, 1), ("GPU-bbbb", 0, 1), ("GPU-b", 0, 1), ("1", 1, None), ("", 0, None), ("7", 0, None)],
)
def test_cuda_s_numbers_and_the_machine_s(tool: Path, visible: str | None, device: int, index: int | None) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = GpuReader().of_device(device, environ)
    assert (found.index if found else None) == index


def test_describe_shows_torchserve_s_sentence(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitney.server.http.torchserve.describe.READER", GpuReader())
    assert gpu_usage(0) == "gpuId::0 utilization.gpu [%]::17 % utilization.memory [%]::4 % memory.used [MiB]::678 MiB"
    assert gpu_usage(5) == "failed to obtained gpu usage"


def test_metrics_of_gpus(tool: Path) -> None:
    metrics = TorchServeMetrics()
    for figures in GpuReader().read():
        metrics.gpu(figures)
    text = render(metrics.families()).decode()
    assert f'GPUMemoryUtilization{{Level="Host",DeviceId="1",Hostname="{metrics.hostname}",}} 50.0' in text
    assert f'GPUUtilization{{Level="Host",DeviceId="0",Hostname="{metrics.hostname}",}} 17.0' in text


def test_without_the_tool_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.GpuReader().read() == ()


def test_triton_s_metrics_of_gpus(tool: Path) -> None:
    text = render(gpu_families(GpuReader().read())).decode()
    for line in (
        'nv_gpu_utilization{gpu_uuid="GPU-aaaa"} 0.17',
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-bbbb"} 2097152000.0',
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-bbbb"} 1048576000.0',
        'nv_gpu_power_usage{gpu_uuid="GPU-aaaa"} 70.5',
        'nv_gpu_power_limit{gpu_uuid="GPU-aaaa"} 400.0',
        "# TYPE nv_gpu_utilization gauge",
    ):
        assert line in text.splitlines()
    assert list(gpu_families(())) == []
