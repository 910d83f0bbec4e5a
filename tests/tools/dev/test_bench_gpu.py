"""The GPU benchmark: it says why it measures nothing, and its whole way runs on the CPU."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from jitney.backends.gpus import GpuReader
from jitney.server.repository.triton.repository import TritonRepository
from jitney.tests.fakes.gpus import ending_readers
from jitney.tools.bench.served import wait_until
from jitney.tools.dev import bench_gpu, gpu_busy
from jitney.tools.dev.bench_gpu_models import build, network, workloads
from jitney.tools.dev.gpu_ceilings import CeilingFailed, forward, measured_copies, measured_forward

SMI = """#!/bin/sh
case "$*" in
  *loop-ms*) echo 90; echo "[N/A]"; echo 70; exec sleep 60 ;;
  *) echo "0, GPU-abc, 5, 5, 10, 100, 60, 300" ;;
esac
"""


def test_without_a_gpu_it_says_so_and_succeeds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_gpu, "gpus", list)
    assert bench_gpu.main([]) == 0
    assert capsys.readouterr().out.startswith("bench-gpu: nothing was measured: this machine has no NVIDIA GPU")


def test_a_torch_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch can use a GPU")
    monkeypatch.setattr(bench_gpu, "gpus", lambda: [0])
    assert re.fullmatch(r"the installed torch \S+ cannot use the GPU; see requirements-gpu.txt", bench_gpu.obstacle())


def test_the_whole_way_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--device cpu --networks mlp --formats eager-tuned --seconds 0.3 --rounds 1 --batches 1,4 --connections 1,4"
    assert bench_gpu.main(arguments.split()) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| 602,112 \| – \| – \| [\d.]+ \| [\d.]+ \|", out)
    assert re.search(r"^\| eager-tuned \| [\d,]+ \| [\d,]+ \|$", out, re.MULTILINE)
    for connections in (1, 4):
        assert re.search(rf"^\| mlp eager-tuned, raw \| {connections} \| [\d,]+ \|.* \| – \|$", out, re.MULTILINE)


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_each_format_has_a_forward(tmp_path: Path, form: str) -> None:
    names = build(tmp_path / "models", network("mlp"), [form], "KIND_CPU", 4)
    (config,) = TritonRepository([tmp_path / "models"]).read(names[form])
    rates = forward(config, "cpu", [1, 4], 0.05)
    assert set(rates) == {1, 4}
    assert all(rate > 0 for rate in rates.values())
    found = workloads(network("mlp"), form, names[form], tmp_path / "bodies", 4)
    assert [(item.raw, len(item.body.read_bytes())) for item in found] == [(True, 4 * 512)]


def test_what_cannot_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CeilingFailed, match="empty"):
        measured_forward(tmp_path, "empty", "cpu", [1], 0.1)
    with pytest.raises(ValueError, match="unknown network 'vgg', expected mlp or resnet152"):
        network("vgg")


def test_copies_on_the_cpu_have_no_page_locked_memory() -> None:
    found = measured_copies("cpu", 0.05)
    assert found["device"] == "cpu"
    assert all("pageable" in name and rate > 0 for name, rate in found["rates"].items())


def test_the_busy_share_is_of_the_last_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with ending_readers():
        monkeypatch.setattr(gpu_busy, "READER", GpuReader())
        with gpu_busy.watching(0) as busy:
            wait_until(lambda: busy(60.0) == pytest.approx(0.8), 10, "both samples")
            assert busy(-1.0) is None
        with gpu_busy.watching(None) as nothing, gpu_busy.watching(7) as absent:
            assert nothing(1.0) is absent(1.0) is None


@pytest.mark.gpu
def test_on_cuda_copies_and_forward_are_measured(tmp_path: Path) -> None:
    assert bench_gpu.obstacle() == ""
    rates = measured_copies("cuda:0", 0.2)["rates"]
    assert rates["to pinned 77070336"] > 1.0
    names = build(tmp_path / "models", network("mlp"), ["eager", "eager-tuned"], "KIND_GPU", 8)
    for model in names.values():
        found = measured_forward(tmp_path / "models", model, "cuda:0", [1, 8], 0.2)
        assert found[8] > found[1] > 0
