"""A real worker that launches batches ahead, on a card that is made of the CPU's memory: under load each answer is its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.card import machine_with_a_card
from jitney.tests.fakes.plane import answers
from jitney.tests.fakes.serving import LIMIT_S, serving, write_model

CONFIG = """backend: "pytorch" runtime: "model.py" max_batch_size: 8 dynamic_batching { }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4000 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4000 ] } ]
instance_group [ { count: 1 kind: KIND_GPU } ]
"""
SOURCE = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return x * 2 + 1
"""
#: The device comes to kernels as late as to copies, and a batch beside another one leaves a mark.
LATE = """
from jitney.backends import batch, torch_batch
late_device.QUESTIONS = 1000
compute = torch_batch.TorchBackend.compute
def later(self, tensors):
    if self.loading:
        return compute(self, tensors)
    return late_device.queued(lambda given: compute(self, given))(tensors)
torch_batch.TorchBackend.compute = later
begin = batch.TensorBackend.begin
def noted(self, requests, respond):
    beside = self.launched is not None and not self.launched.ended
    with open({marks!r}, "a") as file:
        file.write("B" if beside else "a")
    return begin(self, requests, respond)
batch.TensorBackend.begin = noted
"""
CLIENTS, ASKED = 24, 25


def test_under_load_batches_overlap_and_every_answer_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks, models = tmp_path / "marks", tmp_path / "models"
    write_model(models, "m", CONFIG, SOURCE)
    with machine_with_a_card(tmp_path, monkeypatch, LATE.format(marks=str(marks))), serving(models, "m") as server:

        def client(number: int) -> int:
            dice, right = np.random.default_rng(number), 0
            for _ in range(ASKED):
                x = dice.normal(size=(int(dice.integers(1, 5)), 4000)).astype(np.float32)
                call = server.dataplane.infer("m", None, Request(tensors=[Tensor.from_numpy("x", x)]))
                (answer,) = answers(call, LIMIT_S)
                right += np.array_equal(answer.tensors[0].numpy(), x * 2 + 1)
            return right

        with ThreadPoolExecutor(CLIENTS) as pool:
            done = list(pool.map(client, range(CLIENTS)))
        (statistics,) = server.dataplane.statistics("m")
    assert done == [ASKED] * CLIENTS
    assert statistics.success.count == CLIENTS * ASKED
    assert marks.read_text().count("B") > 20, marks.read_text()
