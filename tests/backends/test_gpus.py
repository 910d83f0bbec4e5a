"""What nvidia-smi says, with a script in its place: on machines without a GPU nothing else can be asked."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jitney.backends import gpus, nvml
from jitney.backends.gpus import GpuFigures, GpuReader
from jitney.server.http.torchserve.describe import gpu_usage
from jitney.server.metrics.machine import gpu_families
from jitney.server.metrics.text import render
from jitney.server.metrics.torchserve import TorchServeMetrics
from jitney.tests.fakes.gpus import ending_readers
from jitney.tests.fakes.leftovers import Inventory

LINES = "0, GPU-aaaa, 17, 4, 678, 81559, 70.5, 400\n1, GPU-bbbb, [N/A], 0, 1000, 2000, [N/A], [N/A]\n"


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(nvml, "opened", lambda: None)
    with ending_readers():
        yield


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
    reader = GpuReader(max_age=3)
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


def test_a_tool_that_takes_long_keeps_no_request_waiting(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one waits for a moment, those after it get what was found last, however old."""
    monkeypatch.setattr(gpus, "_PATIENCE_S", 0.2)
    script = tool / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nsleep 1.5\ncat {tool}/lines\n")
    reader = GpuReader(max_age=0.01)
    began = time.monotonic()
    assert reader.read() == ()
    assert time.monotonic() - began < 1.2
    deadline = time.monotonic() + 20
    while not reader._found:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    began = time.monotonic()
    assert len(reader.read()) == 2
    assert time.monotonic() - began < 1.2


def test_the_thread_goes_when_nobody_asks_and_comes_back(tool: Path) -> None:
    reader = GpuReader(max_age=0.01, interest=0.1)
    assert len(reader.read()) == 2
    thread = reader._thread
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    (tool / "lines").write_text(LINES.splitlines()[0])
    time.sleep(0.05)  # until what was found is old
    assert len(reader.read()) == 1


def test_a_machine_without_gpus_gets_no_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    before = Inventory()
    reader = GpuReader()
    assert reader.read() == ()
    assert before.new(0, "thread") == []


class Library:
    """What `nvidia-ml-py` offers, for two cards of which one reports its memory only, and one that fell off the bus."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.initialised = False

    def nvmlInit(self) -> None:
        self.initialised = True

    def nvmlDeviceGetCount(self) -> int:
        assert self.initialised
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            raise self.NVMLError
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return "GPU-new" if handle else b"GPU-old"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=5 << 20, total=80 << 30)

    def _only_of_the_first(self, handle: int, value: Any) -> Any:
        if handle:
            raise self.NVMLError
        return value

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._only_of_the_first(handle, SimpleNamespace(gpu=50, memory=25))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> Any:
        return self._only_of_the_first(handle, 70_500)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> Any:
        return self._only_of_the_first(handle, 400_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> Any:
        return self._only_of_the_first(handle, 1_234_500)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


def test_nvml_is_asked_where_it_is_there_and_no_program_started(library: Library, tmp_path: Path) -> None:
    found = GpuReader().read()
    assert found == (
        GpuFigures(0, "GPU-old", 50.0, 25.0, 5.0, 81920.0, 70.5, 400.0, 1234.5),
        GpuFigures(2, "GPU-new", 0.0, 0.0, 5.0, 81920.0),
    )
    lines = render(gpu_families(found)).decode().splitlines()
    assert 'nv_energy_consumption{gpu_uuid="GPU-old"} 1234.5' in lines
    assert "# TYPE nv_energy_consumption counter" in lines
    assert not [line for line in lines if line.startswith('nv_energy_consumption{gpu_uuid="GPU-new"')]


def test_without_a_driver_nvml_is_not_used(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise library.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(library, "nvmlInit", refuse)
    assert nvml.opened() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.opened() is None
