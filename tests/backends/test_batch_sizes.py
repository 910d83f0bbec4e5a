"""Batches of fixed sizes: what the model sees, what clients get, and graphs that are captured for them on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jitney.backends.cuda_graphs import key_of
from jitney.backends.options import CannotLoad, padded_sizes
from jitney.backends.warmup import batch_sizes
from jitney.core.model_config import ModelConfig
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.shape[0])
        return x * 2, torch.isnan(x).any(1, keepdim=True).float()
"""


def model(folder: Path, rows: int = 8, **parameters: str) -> ModelConfig:
    (folder / "model.py").write_text(SOURCE)
    return config(folder, "eager", [spec("x", 3)], [spec("y", 3), spec("nan", 1)], rows, parameters=parameters)


@pytest.mark.parametrize(
    ("rows", "text", "expected"),
    [
        (8, "any", ()),
        (8, "powers_of_two", (1, 2, 4, 8)),
        (12, "powers_of_two", (1, 2, 4, 8, 12)),
        (8, "4, 1", (1, 4, 8)),
        (8, "8", (8,)),
        (1, "powers_of_two", (1,)),
        (0, "powers_of_two", ()),
    ],
)
def test_sizes(tmp_path: Path, rows: int, text: str, expected: tuple[int, ...]) -> None:
    target = model(tmp_path, rows, batch_sizes=text)
    assert padded_sizes(target) == expected
    if expected:
        assert tuple(batch_sizes(target)) == expected


@pytest.mark.parametrize("text", ["0", "9", "-1", "two", "1,,2", ""])
def test_sizes_that_cannot_be_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(CannotLoad, match=r"parameter batch_sizes"):
        padded_sizes(model(tmp_path, batch_sizes=text))


def test_graphs_fix_the_sizes(tmp_path: Path) -> None:
    assert padded_sizes(model(tmp_path, cuda_graphs="true"), on_gpu=True) == (1, 2, 4, 8)
    assert padded_sizes(model(tmp_path, cuda_graphs="true", batch_sizes="8"), on_gpu=True) == (8,)


def test_the_model_sees_these_sizes_only_and_each_request_gets_its_rows(tmp_path: Path) -> None:
    backend: Any = loaded(model(tmp_path, batch_sizes="4,8"))
    assert backend.module.seen == [4, 8]
    backend.module.seen.clear()
    for counts in ((1,), (3, 2), (4,), (1, 1, 1), (8,)):
        sent = [np.random.default_rng(n).normal(size=(count, 3)).astype(np.float32) for n, count in enumerate(counts)]
        got = answers(backend, [request(x=array) for array in sent])
        for array, answer in zip(sent, got, strict=True):
            np.testing.assert_array_equal(arrays(answer)["y"], array * 2)
    assert backend.module.seen == [4, 8, 4, 4, 8]


def test_a_rows_of_earlier_batches_do_not_stay_in_the_padding(tmp_path: Path) -> None:
    backend: Any = loaded(model(tmp_path, batch_sizes="8"))
    poisoned = np.full((7, 3), np.nan, np.float32)
    answers(backend, [request(x=poisoned)])
    inputs: list[np.ndarray] = []
    run = backend.run
    backend.run = lambda given: (inputs.append(given["x"].values.copy()), run(given))[1]
    (answer,) = answers(backend, [request(x=np.ones((2, 3), np.float32))])
    assert inputs[0].tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 6
    assert arrays(answer)["nan"].tolist() == [[0.0], [0.0]]


def test_graphs_are_found_by_shape_type_and_layout() -> None:
    image = torch.zeros(2, 3, 4, 4)
    assert key_of({"x": image}) == key_of({"x": torch.ones(2, 3, 4, 4)})
    others = [image[:1], image.double(), image.contiguous(memory_format=torch.channels_last)]
    assert len({key_of({"x": value}) for value in [image, *others]}) == 4
    assert key_of({"x": image, "texts": ["a"]}) is None


def test_on_cpu_graphs_change_nothing(tmp_path: Path) -> None:
    backend: Any = loaded(model(tmp_path, cuda_graphs="true"))
    assert backend.graphs is None
    backend.module.seen.clear()
    (answer,) = answers(backend, [request(x=np.ones((3, 3), np.float32))])
    assert arrays(answer)["y"].tolist() == [[2.0] * 3] * 3
    assert backend.module.seen == [3]


CONV = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
        )

    def forward(self, x):
        return self.layers(x)
"""


def conv(folder: Path, **parameters: str) -> ModelConfig:
    (folder / "model.py").write_text(CONV)
    space: dict[str, Any] = {}
    exec(compile(CONV, "model.py", "exec"), space)
    torch.save(space["Net"]().state_dict(), folder / "model.pt")
    return config(folder, "eager", [spec("x", 3, 8, 8)], [spec("y", 5)], 8, parameters=parameters)


@pytest.mark.gpu
@pytest.mark.parametrize("extra", [{}, {"channels_last": "true"}, {"autocast": "bf16"}, {"INFERENCE_MODE": "false"}])
def test_on_cuda_graphs_answer_as_the_model_does(tmp_path: Path, extra: dict[str, str]) -> None:
    plain: Any = loaded(conv(tmp_path, **extra), gpu=0)
    graphed: Any = loaded(conv(tmp_path, cuda_graphs="true", **extra), gpu=0)
    assert len(graphed.graphs) == 4
    calls: list[int] = []
    forward = graphed.module.forward
    graphed.module.forward = lambda x: (calls.append(len(x)), forward(x))[1]
    for seed, counts in enumerate([(1,), (3, 2), (8,), (1, 1, 1), (2,)]):
        sent = [np.random.default_rng(seed + n).normal(size=(c, 3, 8, 8)).astype(np.float32) for n, c in enumerate(counts)]
        got, wanted = ([arrays(a)["y"] for a in answers(b, [request(x=x) for x in sent])] for b in (graphed, plain))
        for values, expected in zip(got, wanted, strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-2 if "autocast" in extra else 1e-4, atol=1e-2)
    assert not calls, "the module was called where a graph should have been replayed"


@pytest.mark.gpu
def test_on_cuda_nothing_is_captured_on_a_live_request(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE.replace("self.seen.append(x.shape[0])", "pass"))
    inputs, outputs = [spec("x", -1)], [spec("y", -1), spec("nan", 1)]
    backend: Any = loaded(config(tmp_path, "eager", inputs, outputs, 4, parameters={"cuda_graphs": "true"}), gpu=0)
    captured = len(backend.graphs)
    (answer,) = answers(backend, [request(x=np.ones((2, 77), np.float32))])
    assert arrays(answer)["y"].tolist() == [[2.0] * 77] * 2
    assert len(backend.graphs) == captured == 3


@pytest.mark.gpu
def test_on_cuda_a_model_that_looks_at_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE.replace("return x * 2,", "return x * (2 if bool((x > 5).any()) else 1),"))
    parameters = {"cuda_graphs": "true"}
    target = config(tmp_path, "eager", [spec("x", 3)], [spec("y", 3), spec("nan", 1)], 4, parameters=parameters)
    with pytest.raises(RuntimeError, match="cannot run as a CUDA graph, set cuda_graphs to false"):
        loaded(target, gpu=0)


@pytest.mark.gpu
def test_on_cuda_graphs_need_warm_up(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match="cuda_graphs needs warm-up"):
        loaded(conv(tmp_path, cuda_graphs="true", warmup="off"), gpu=0)
