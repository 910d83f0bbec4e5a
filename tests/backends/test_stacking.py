"""Rows into one buffer and outputs apart again, whatever memory they lie in."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.backends.stacking import Array, BadInput, BatchBuffers, aligned, named, split
from jitney.core.request import Request
from jitney.core.tensor import NUMPY_DTYPES, Tensor
from jitney.tests.fakes.tensors import config, spec

COUNTS = (1, 3, 2, 1)


class Announced:
    """What `written` was told, checked to be ascending and without gaps."""

    def __init__(self) -> None:
        self.end = 0
        self.calls: list[tuple[int, int]] = []

    def __call__(self, key: tuple[str, str], buffer: Any, start: int, stop: int) -> None:
        assert start == (self.end if self.calls else 0)
        assert stop > start
        self.end = stop
        self.calls.append((start, stop))


def in_memory(array: np.ndarray, kind: str) -> Any:
    data = array.tobytes()
    made: dict[str, Any] = {
        "bytes": data,
        "bytearray": bytearray(data),
        "view": memoryview(bytearray(b"xyz" + data))[3:],
        "floats": array.reshape(-1).copy().data,
        "rows": array.copy().data,
    }
    return made[kind]


@pytest.mark.parametrize(
    ("kind", "width"),
    [("bytes", 0), *product(["bytes", "bytearray", "view", "floats", "rows"], [1, 7, 9000, 30_000])],
)
@pytest.mark.parametrize("padded", [7, 9])
def test_stacked_rows_are_the_requests_rows(tmp_path: Path, kind: str, width: int, padded: int) -> None:
    announced = Announced()
    buffers = BatchBuffers(config(tmp_path, "eager", [spec("x", -1)], [spec("y", 1)]), aligned, announced)
    rows = [np.random.default_rng(n).normal(size=(count, width)).astype(np.float32) for n, count in enumerate(COUNTS)]
    buffers.buffers["x", "FP32"] = aligned(padded * width * 4)
    buffers.buffers["x", "FP32"][:] = 255
    batch = [Request(tensors=[Tensor("x", "FP32", row.shape, in_memory(row, kind))]) for row in rows]
    found = buffers.stack("x", batch, padded, copies_single=True).values
    assert found.shape == (padded, width)
    np.testing.assert_array_equal(found[:7], np.concatenate(rows))
    assert not found[7:].any()
    assert announced.end == padded * width * 4


def test_large_rows_are_announced_as_they_are_written_and_small_ones_together(tmp_path: Path) -> None:
    for width, calls in ((10, 1), (20_000, 4)):
        announced = Announced()
        buffers = BatchBuffers(config(tmp_path, "eager", [spec("x", -1)], [spec("y", 1)]), aligned, announced)
        batch = [Request(tensors=[Tensor("x", "FP32", (1, width), bytes(4 * width))]) for _ in range(4)]
        buffers.stack("x", batch, 4, copies_single=True)
        assert len(announced.calls) == calls


def test_too_few_bytes_are_refused(tmp_path: Path) -> None:
    buffers = BatchBuffers(config(tmp_path, "eager", [spec("x", 2)], [spec("y", 1)]), aligned, Announced())
    batch = [Request(tensors=[Tensor("x", "FP32", (1, 2), data)]) for data in (bytes(8), bytes(4))]
    with pytest.raises(ValueError, match="4 bytes, 8 belong to its shape"):
        buffers.stack("x", batch, 2, copies_single=True)


def test_the_lacking_input_is_named() -> None:
    with pytest.raises(BadInput, match="request 'a' lacks input 'x'"):
        named(Request("a"), "x")


@pytest.mark.parametrize("datatype", sorted(NUMPY_DTYPES))
@pytest.mark.parametrize("layout", ["contiguous", "reversed", "transposed", "big-endian"])
def test_each_request_gets_its_rows(datatype: str, layout: str) -> None:
    values = (np.arange(7 * 3 * 2) % 5).reshape(7, 3, 2).astype(NUMPY_DTYPES[datatype])
    shaped = {
        "contiguous": values,
        "reversed": values[::-1],
        "transposed": np.asfortranarray(values),
        "big-endian": values.astype(values.dtype.newbyteorder(">")),
    }[layout]
    parts = split("y", Array(datatype, shaped), COUNTS)
    assert [(part.name, part.datatype, part.shape) for part in parts] == [("y", datatype, (n, 3, 2)) for n in COUNTS]
    np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts]), shaped)


def test_strings_and_rows_of_nothing_are_split_too() -> None:
    texts = np.array([["a", ""], ["é", "bb"], ["c", "d"]], dtype=object)
    parts = split("y", Array("BYTES", texts), (1, 2))
    assert parts[1].numpy().tolist() == [["é".encode(), b"bb"], [b"c", b"d"]]
    empty = split("y", Array("FP32", np.zeros((3, 0), np.float32)), (1, 2))
    assert [part.numpy().shape for part in empty] == [(1, 0), (2, 0)]
    none = split("y", Array("FP32", np.zeros((0, 2), np.float32)), (0, 0))
    assert [part.numpy().shape for part in none] == [(0, 2), (0, 2)]


def test_buffers_grow_with_what_is_sent_and_not_to_what_could_be(tmp_path: Path) -> None:
    """A large row does not take the memory of 32 of them; a full batch takes no more than itself."""
    taken: list[int] = []

    def allocate(size: int) -> Any:
        taken.append(size)
        return aligned(size)

    model = config(tmp_path, "eager", [spec("x", -1)], [spec("y", 1)], 32)
    buffers = BatchBuffers(model, allocate, lambda *_: None)

    def stack(rows: int, width: int) -> None:
        array = np.ones((rows, width), np.float32)
        found = buffers.stack("x", [Request(tensors=[Tensor.from_numpy("x", array)])], rows, copies_single=True)
        np.testing.assert_array_equal(found.values, array)

    stack(1, 1000)
    stack(1, 900)
    assert taken == [4096]
    stack(2, 1000)
    assert taken == [4096, 8192]
    stack(32, 1000)
    assert taken == [4096, 8192, 128_000]
    for rows in range(1, 33):
        stack(rows, 1000)
    assert len(taken) == 3
    stack(40, 1000)
    assert taken[-1] == 160_000, "a batch beyond max_batch_size, as warm-up of other sizes has it"
