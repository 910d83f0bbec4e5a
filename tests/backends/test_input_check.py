"""Which requests fit a model, and which can be stacked; what is remembered of a shape must not let another one in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jitney.backends import input_check
from jitney.backends.input_check import InputCheck
from jitney.backends.stacking import BadInput
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.tensors import config, request, spec


@pytest.fixture
def check(tmp_path: Path) -> InputCheck:
    inputs = [spec("x", -1), spec("n", 1, datatype="INT32", optional=True)]
    return InputCheck(config(tmp_path, "eager", inputs, [spec("y", 1)]), None)


def x(*shape: int, name: str = "x", datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, shape, b"")


def test_requests_of_one_shape_have_one_key_whatever_their_rows_and_order(check: InputCheck) -> None:
    plain = [check.key(Request(tensors=[x(rows, 4)])) for rows in (1, 3, 1)]
    assert len(set(plain)) == 1
    both = [x(2, 4), x(2, 1, name="n", datatype="INT32")]
    assert check.key(Request(tensors=both)) == check.key(Request(tensors=both[::-1]))
    assert len({plain[0], check.key(Request(tensors=both)), check.key(Request(tensors=[x(1, 5)]))}) == 3


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([x(1, 4, name="z")], "unexpected inference input 'z' for model 'm', allowed: x, n"),
        ([x(1, 4, datatype="FP64")], "input 'x' data-type is 'FP64', but model 'm' expects 'FP32'"),
        ([x(1, 4, datatype="UINT8")], "input 'x' data-type is 'UINT8'"),
        ([x(4)], "shape [4] of input 'x' has 1 dimensions, model 'm' expects 2"),
        ([x()], "shape [] of input 'x' has 0 dimensions, model 'm' expects 2"),
        ([x(1, 1, 4)], "shape [1,1,4] of input 'x' has 3 dimensions, model 'm' expects 2"),
        ([], "request lacks input x of model 'm'"),
        ([x(1, 1, name="n", datatype="INT32")], "request lacks input x of model 'm'"),
        ([x(2, 4), x(3, 1, name="n", datatype="INT32")], "differ in their batch axis: 'x' [2,4], 'n' [3,1]"),
    ],
)
def test_what_does_not_fit_is_refused_however_often_it_comes(check: InputCheck, tensors: list[Tensor], said: str) -> None:
    check.key(Request(tensors=[x(1, 4)]))
    check.key(Request(tensors=[x(3, 4), x(3, 1, name="n", datatype="INT32")]))
    for _ in range(2):
        with pytest.raises(BadInput) as caught:
            check.key(Request(tensors=tensors))
        assert said in str(caught.value)


def test_without_a_batch_axis_the_whole_shape_counts(tmp_path: Path) -> None:
    check = InputCheck(config(tmp_path, "eager", [spec("x", 2, 4)], [spec("y", 1)], rows=0), None)
    check.key(request(x=np.zeros((2, 4), np.float32)))
    with pytest.raises(BadInput, match="expects 2"):
        check.key(request(x=np.zeros((1, 2, 4), np.float32)))


def test_only_so_many_shapes_are_remembered(check: InputCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_check, "_REMEMBERED", 4)
    keys = [check.key(Request(tensors=[x(1, size)])) for size in range(20)]
    assert len(set(keys)) == 20
    assert len(check._known) <= 4
