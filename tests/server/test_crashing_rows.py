"""A row that ends its worker, in a real eager PyTorch model: it fails alone, and is refused once it did so too often."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jitney.core.errors import InvalidRequest, JitneyError, WorkerDied
from jitney.core.request import Response
from jitney.core.tensor import Tensor
from jitney.server.serving.fatal_inputs import MOST
from jitney.tests.fakes.serving import Serving, serving

CONFIG = """
backend: "pytorch"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 300000 }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
MODEL = """
import ctypes
import torch

class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        if bool((x == 666).any()):
            ctypes.string_at(0)
        return 2 * x * self.weight
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    import torch

    version = tmp_path / "twice" / "1"
    version.mkdir(parents=True)
    (tmp_path / "twice" / "config.pbtxt").write_text(CONFIG)
    (version / "model.py").write_text(MODEL)
    torch.save({"weight": torch.ones(1)}, version / "model.pt")
    with serving(tmp_path, "twice") as found:
        yield found


def ask(served: Serving, value: float) -> float | JitneyError:
    try:
        (response,) = served.ask("twice", [Tensor.from_numpy("x", np.array([[value]], np.float32))])
    except JitneyError as error:
        return error
    assert isinstance(response, Response)
    return float(response.tensors[0].numpy().item())


def test_one_row_ends_the_worker_and_the_other_seven_are_answered(served: Serving) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: ask(served, value), [1, 2, 3, 666, 5, 6, 7, 8]))
    bad = answers.pop(3)
    assert isinstance(bad, WorkerDied)
    assert "SIGSEGV" in str(bad)
    assert answers == [2, 4, 6, 10, 12, 14, 16]


def test_an_input_that_does_so_again_and_again_is_refused_and_others_are_not(served: Serving) -> None:
    answers = [ask(served, 666) for _ in range(MOST + 1)]
    assert [type(answer) for answer in answers] == [WorkerDied] * MOST + [InvalidRequest]
    assert "has ended the worker of model 'twice' 3 times" in str(answers[-1])
    assert ask(served, 4) == 8
