"""The classification extension."""

from __future__ import annotations

from typing import Any

import falcon.testing
import numpy as np
import pytest

from jitney.core.errors import InvalidRequest
from jitney.core.tensor import Tensor, unpack_bytes
from jitney.server.http.kserve.classification import classify
from jitney.tests.server.http.kserve.messages import entry, post


def classes(array: Any, k: int, *, batches: bool = True, labels: tuple[str, ...] = ()) -> tuple[tuple[int, ...], list[str]]:
    found = classify(Tensor.from_numpy("Y", np.asarray(array)), k, labels, batches)
    assert found.datatype == "BYTES"
    return found.shape, [element.decode() for element in unpack_bytes(found.data)]


def test_the_highest_come_first_with_index_and_label() -> None:
    shape, found = classes(np.array([[0.25, 1, 0.5], [3, 2, 1]], np.float32), 2, labels=("a", "", "c"))
    assert shape == (2, 2)
    assert found == ["1.000000:1", "0.500000:2:c", "3.000000:0:a", "2.000000:1"]


def test_more_classes_than_elements_are_all_elements() -> None:
    assert classes(np.array([[1.0, 2.0]]), 99) == ((1, 2), ["2.000000:1", "1.000000:0"])
    assert classes(np.array([1.0, 2.0]), 99, batches=False) == ((2,), ["2.000000:1", "1.000000:0"])
    assert classes(np.zeros((2, 0), np.float32), 3) == ((2, 0), [])


def test_equal_values_keep_their_order_and_nan_comes_last() -> None:
    assert [text.split(":")[1] for text in classes(np.array([[1.0, np.nan, 1.0, 2.0]]), 4)[1]] == ["3", "0", "2", "1"]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint64, np.int64, np.float16, np.float64])
def test_every_ordered_datatype_is_taken_and_integers_have_no_fraction(dtype: Any) -> None:
    seven = "7.000000" if np.dtype(dtype).kind == "f" else "7"
    assert classes(np.array([[0, 7, 3]], dtype), 1)[1] == [f"{seven}:1"]


def test_large_integers_keep_every_digit() -> None:
    assert classes(np.array([[2**64 - 1, 1]], np.uint64), 1)[1] == [f"{2**64 - 1}:0"]
    assert classes(np.array([[-(2**63), -1]], np.int64), 2)[1] == ["-1:1", f"-{2**63}:0"]


@pytest.mark.parametrize("tensor", [Tensor("Y", "BYTES", (1, 1), b"\0\0\0\0"), Tensor("Y", "BF16", (1, 1), b"\0\0")])
def test_others_are_refused(tensor: Tensor) -> None:
    with pytest.raises(InvalidRequest, match="unsupported type"):
        classify(tensor, 1, (), True)


def test_zero_classes_are_the_plain_output(client: falcon.testing.TestClient) -> None:
    body = {
        "inputs": [entry("X", [1, 4], "FP32", data=[1, 2, 3, 4])],
        "outputs": [{"name": "SCORES", "parameters": {"classification": 0}}],
    }
    assert post(client, "scores", body).json["outputs"] == [entry("SCORES", [1, 4], "FP32", data=[1.0, 2.0, 3.0, 4.0])]
