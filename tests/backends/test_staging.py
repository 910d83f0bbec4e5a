"""Copying a batch to the device in pieces. The pieces and their order are the same without a GPU; only streams are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jitney.backends.stacking import BatchBuffers, aligned
from jitney.backends.staging import Staging, pinned
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

KEY = ("x", "FP32")


def requests(*counts: int, seed: int = 0) -> list[Request]:
    generator = np.random.default_rng(seed)
    return [request(x=generator.normal(size=(count, 4)).astype(np.float32)) for count in counts]


def stacked(staging: Staging, buffers: BatchBuffers, batch: list[Request], padded: int) -> tuple[np.ndarray, np.ndarray]:
    array = buffers.stack("x", batch, padded, copies_single=True)
    taken = staging.take(array.values)
    assert taken is not None
    return array.values, taken.numpy().view(np.float32).reshape(array.values.shape)


@pytest.mark.parametrize("piece", [1, 20, 64, 1 << 20])
def test_the_device_gets_every_row_however_the_pieces_fall(tmp_path: Path, piece: int) -> None:
    staging = Staging(torch.device("cpu"), piece)
    buffers = BatchBuffers(config(tmp_path, "eager", [spec("x", 4)], [spec("y", 4)]), aligned, staging.written)
    for seed, counts in enumerate([(1, 3, 2), (5,), (1, 1), (8, 8, 8, 8)]):
        batch = requests(*counts, seed=seed)
        host, device = stacked(staging, buffers, batch, sum(counts) + seed)
        np.testing.assert_array_equal(device, host)
        np.testing.assert_array_equal(device[: sum(counts)], np.concatenate([item.tensors[0].numpy() for item in batch]))
        assert not device[sum(counts) :].any()


def test_pieces_leave_before_the_batch_is_complete() -> None:
    staging = Staging(torch.device("cpu"), piece=8)
    buffer = aligned(32)
    buffer[:16] = 7
    staging.written(KEY, buffer, 0, 16)
    buffer[:16] = 9  # too late: these bytes are on their way
    buffer[16:20] = 8
    staging.written(KEY, buffer, 16, 20)
    taken = staging.take(buffer[:20])
    assert taken is not None
    assert taken.tolist() == [7] * 16 + [8] * 4


def test_the_devices_memory_stays_and_grows_with_the_buffer() -> None:
    staging = Staging(torch.device("cpu"))
    small, large = aligned(8), aligned(64)
    addresses = []
    for buffer in (small, small, large):
        buffer[:] = 1
        staging.written(KEY, buffer, 0, buffer.size)
        taken = staging.take(buffer)
        assert taken is not None
        addresses.append((taken.data_ptr(), taken.numel()))
    assert addresses[0] == addresses[1]
    assert addresses[2][1] == 64


def test_memory_that_was_not_announced_is_not_taken() -> None:
    staging = Staging(torch.device("cpu"))
    buffer = aligned(16)
    staging.written(KEY, buffer, 0, 16)
    assert staging.take(np.zeros(4, np.float32)) is None
    assert staging.take(buffer[:8]) is None


@pytest.mark.gpu
def test_on_cuda_the_bytes_arrive_whole() -> None:
    staging = Staging(torch.device("cuda:0"))
    buffer = pinned(50 << 20)
    assert torch.from_numpy(buffer).is_pinned()
    for value in (3, 4):
        for start in range(0, buffer.size, 1 << 19):
            buffer[start : start + (1 << 19)] = value
            staging.written(KEY, buffer, start, start + (1 << 19))
        taken = staging.take(buffer)
        assert taken is not None
        assert bool((taken == value).all())


@pytest.mark.gpu
@pytest.mark.parametrize("overlap", ["true", "false"])
def test_on_cuda_batches_answer_the_same(tmp_path: Path, overlap: str) -> None:
    (tmp_path / "model.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x * 2 + 1\n"
    )
    fields: dict[str, Any] = {"parameters": {"overlap_copies": overlap}}
    backend = loaded(config(tmp_path, "eager", [spec("x", 400_000)], [spec("y", 400_000)], **fields), gpu=0)
    for seed in range(3):
        sent = [np.random.default_rng(seed + n).normal(size=(1, 400_000)).astype(np.float32) for n in range(8)]
        got = answers(backend, [Request(tensors=[Tensor.from_numpy("x", array)]) for array in sent])
        for array, answer in zip(sent, got, strict=True):
            np.testing.assert_allclose(arrays(answer)["y"], array * 2 + 1, rtol=1e-6)
