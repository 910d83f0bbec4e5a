"""JSON values to tensors: few numbers take a way of their own, which makes no difference."""

from __future__ import annotations

import struct
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jitney.codecs import arrays
from jitney.codecs.arrays import tensor_from_json
from jitney.core.elements import CODES, FEW
from jitney.core.errors import InvalidRequest
from jitney.core.model_config import TensorSpec
from jitney.core.tensor import Tensor

DATATYPES = [*CODES, "FP16", "BF16"]
EDGES = [
    0,
    -0.0,
    1,
    True,
    255,
    256,
    2**24 + 1,
    2**53 + 1,
    -(2**53) - 1,
    2**63,
    2**64,
    1.5,
    1e39,
    3.4028236e38,
    1e308,
    "1",
    None,
]
NUMBERS = st.sampled_from(EDGES) | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(NUMBERS | st.floats(-10, 10), lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def told(datatype: str, value: Any) -> tuple[object, ...]:
    try:
        tensor = tensor_from_json(TensorSpec("x", datatype, (-1,)), value)
    except InvalidRequest as error:
        return ("refused", str(error))
    return (tensor.datatype, tensor.shape, bytes(tensor.data))


@given(st.sampled_from(DATATYPES), VALUES)
def test_few_numbers_become_what_numpy_makes_of_them(datatype: str, value: Any) -> None:
    found = told(datatype, value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arrays, "_few", lambda spec, value: None)
        assert found == told(datatype, value)


@pytest.mark.parametrize(("size", "few"), [(1, True), (FEW, True), (FEW + 1, False)])
def test_only_few_numbers_go_without_numpy(size: int, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor | None] = []
    plain = arrays._few
    monkeypatch.setattr(arrays, "_few", lambda spec, value: found.append(plain(spec, value)) or found[-1])
    tensor = tensor_from_json(TensorSpec("x", "FP32", (-1,)), [0.5] * size)
    assert bytes(tensor.data) == struct.pack("<f", 0.5) * size
    assert (found[0] is not None) == few
