"""Which requests may share a batch."""

from __future__ import annotations

import numpy as np

from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.server.batching.lane import BatchKeys


def request(**shapes: tuple[int, ...]) -> Request:
    return Request(tensors=[Tensor.from_numpy(name, np.zeros(shape, np.float32)) for name, shape in shapes.items()])


def keys(*specs: TensorSpec, max_batch_size: int = 8) -> BatchKeys:
    return BatchKeys(ModelConfig("m", "1", "python", inputs=specs, max_batch_size=max_batch_size))


def test_the_batch_axis_does_not_count_and_every_other_does() -> None:
    key = keys(TensorSpec("x", "FP32", (-1,))).key
    assert key(request(x=(1, 3))) == key(request(x=(5, 3)))
    assert key(request(x=(1, 3))) != key(request(x=(1, 4)))


def test_without_a_batch_axis_the_whole_shape_counts() -> None:
    key = keys(TensorSpec("x", "FP32", (-1,)), max_batch_size=0).key
    assert key(request(x=(3,))) != key(request(x=(4,)))


def test_names_and_datatypes_count() -> None:
    key = keys(TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,), optional=True)).key
    integers = Request(tensors=[Tensor.from_numpy("x", np.zeros((1, 3), np.int32))])
    assert len({key(request(x=(1, 3))), key(request(y=(1, 3))), key(request(x=(1, 3), y=(1, 3))), key(integers)}) == 4


def test_the_shape_of_a_ragged_input_does_not_count() -> None:
    key = keys(TensorSpec("x", "FP32", (-1,), ragged=True), TensorSpec("y", "FP32", (-1,))).key
    assert key(request(x=(1, 3), y=(1, 2))) == key(request(x=(1, 4), y=(1, 2)))
    assert key(request(x=(1, 3), y=(1, 2))) != key(request(x=(1, 3), y=(1, 3)))


def test_where_all_requests_are_alike_there_is_one_key() -> None:
    assert keys(TensorSpec("x", "FP32", (3,))).key(request(x=(1, 3))) is None
    assert keys().key(Request()) is None, "a handler's parts"
    assert keys().key(request(x=(1, 3))) is not None, "of a model that declares no inputs"
