"""What can be said of CUDA graphs without a GPU: the reason why there is none, and the order in which they are captured."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

from jitney.backends.cuda_graphs import CannotCapture, CudaGraphs
from jitney.backends.onnx_options import SHRINKAGE, uses_graphs
from jitney.backends.options import CannotLoad
from jitney.backends.warmup import WarmupFailed, check_batch_axis
from jitney.core.request import Failure, Response
from jitney.tests.backends.test_onnx import model
from jitney.tests.fakes.tensors import config, spec


class Capture:
    """`torch.cuda.graph`, which ends a capture that has failed with an error of its own."""

    def __init__(self, graph: Any, pool: Any = None) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(CudaGraphs, "_warm_up", lambda self, inputs, forward: None)
    return CudaGraphs(torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Cannot copy between CPU and CUDA tensors during CUDA graph capture"), "Cannot copy between CPU and"),
        (ValueError("the mask is empty"), "ValueError: the mask is empty"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_the_models_own_error_is_told_and_not_what_ends_the_capture(
    graphs: CudaGraphs, error: Exception, reason: str
) -> None:
    def forward(inputs: dict[str, Any]) -> dict[str, Any]:
        raise error

    with pytest.raises(CannotCapture, match=f"set cuda_graphs to false: {reason}"):
        graphs.run({"x": torch.zeros(2)}, forward, capture=True)
    assert len(graphs) == 0


def test_running_out_of_memory_is_no_fault_of_the_model(graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(inputs: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool=None: torch.no_grad())
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_ALLOC_FAILED"):
        graphs.run({"x": torch.zeros(2)}, forward, capture=True)


class Sizes:
    """A backend that only notes the batches of warm-up; those of more rows than `most` fail."""

    def __init__(self, most: int = 100) -> None:
        self.most, self.rows = most, list[int]()

    def execute(self, requests: Any, respond: Any) -> None:
        self.rows.append(requests[0].rows)
        error = Failure("too wide") if requests[0].rows > self.most else None
        respond(0, Response(error=error))


def test_the_largest_graph_is_captured_first(tmp_path: Path) -> None:
    backend: Any = Sizes()
    plain = config(tmp_path, "eager", [spec("x", 2)], [spec("y", 2)], 8)
    graphs = config(tmp_path, "eager", [spec("x", 2)], [spec("y", 2)], 8, parameters={"cuda_graphs": "true"})
    check_batch_axis(backend, plain, on_gpu=True)
    assert list(dict.fromkeys(backend.rows)) == [1, 2, 4, 8]
    backend.rows.clear()
    check_batch_axis(backend, graphs, on_gpu=True)
    assert list(dict.fromkeys(backend.rows)) == [8, 4, 2, 1]
    small: Any = Sizes(most=4)
    with pytest.raises(
        WarmupFailed, match=r"batch of 8 rows .*\(it is the first that is tried: max_batch_size: 8 may be more"
    ):
        check_batch_axis(small, graphs, on_gpu=True)
    with pytest.raises(WarmupFailed, match=r"batch of 8 rows .*\(it ran smaller batches, so max_batch_size: 8 is more"):
        check_batch_axis(small, plain, on_gpu=True)


@pytest.mark.parametrize(("value", "refused"), [("gpu:0", True), ("cpu:0;gpu:0", True), ("cpu:0", False)])
def test_onnx_graphs_and_an_arena_that_shrinks_are_refused_together(tmp_path: Path, value: str, refused: bool) -> None:
    target = model(tmp_path, parameters={"cuda_graphs": "true", SHRINKAGE: value})
    if not refused:
        assert uses_graphs(target, on_gpu=True)
        return
    with pytest.raises(CannotLoad, match=f"cuda_graphs cannot go with {SHRINKAGE} {value}: a graph's memory must stay"):
        uses_graphs(target, on_gpu=True)
