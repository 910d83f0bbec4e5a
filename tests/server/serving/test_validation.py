"""Requests against a model's configuration: what is refused, in which order, with which words."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jitney.core.errors import BatchTooWide, InvalidTensor
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request
from jitney.core.tensor import Tensor, pack_bytes
from jitney.server.serving import validation
from jitney.server.serving.validation import validate

PAIR = (TensorSpec("A", "FP32", (3,)), TensorSpec("B", "INT64", (-1, 2), optional=True))
BATCHING = ModelConfig(
    name="m", version="1", backend="python", max_batch_size=4, inputs=PAIR, outputs=(TensorSpec("Y", "FP32", (3,)),)
)
PLAIN = ModelConfig(name="m", version="1", backend="python", inputs=(TensorSpec("S", "BYTES", (-1,)),))


def fp32(shape: tuple[int, ...], name: str = "A", size: int | None = None) -> Tensor:
    count = 1
    for dim in shape:
        count *= dim
    return Tensor(name, "FP32", shape, bytes(4 * count if size is None else size))


def int64(shape: tuple[int, ...]) -> Tensor:
    return Tensor("B", "INT64", shape, bytes(8 * shape[0] * shape[1] * shape[2]))


def strings(data: bytes, shape: tuple[int, ...]) -> Request:
    return Request(tensors=[Tensor("S", "BYTES", shape, data)])


def refusal(config: ModelConfig, request: Request) -> InvalidTensor:
    with pytest.raises(InvalidTensor) as caught:
        validate(config, request)
    return caught.value


def test_the_rows_are_the_batch_axis() -> None:
    assert validate(BATCHING, Request(tensors=[fp32((2, 3)), int64((2, 5, 2))], outputs=("Y",))) == 2
    assert validate(BATCHING, Request(tensors=[fp32((4, 3))])) == 4
    assert validate(PLAIN, strings(pack_bytes(["a", "bc"]), (2,))) == 1


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (
            [],
            "expected number of inputs between 1 and 2 but got 0 inputs for model 'm'. Got input(s) [], but missing required "
            "input(s) ['A']. Please provide all required input(s).",
        ),
        (
            [fp32((1, 3)), fp32((1, 3), "X"), int64((1, 1, 2))],
            "expected number of inputs between 1 and 2 but got 3 inputs for model 'm'. Got input(s) ['A','B','X'], but missing "
            "required input(s) ]. Please provide all required input(s).",
        ),
        ([fp32((1, 3)), fp32((1, 3))], "input 'A' already exists in request"),
        ([fp32(())], "input 'A' has no shape but model requires batch dimension for 'm'"),
        ([fp32((1, 3)), int64((2, 1, 2))], "input 'B' batch size does not match other inputs for 'm'"),
        ([fp32((0, 3))], "inference request batch-size must be >= 1 for 'm', got 0"),
        (
            [Tensor("A", "INT32", (1, 3), bytes(12))],
            "inference input 'A' data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        ([fp32((1, 3), size=8)], "input byte size mismatch for input 'A' for model 'm'. Expected 12, got 8"),
    ],
)
def test_what_does_not_fit_is_refused_in_tritons_words(tensors: list[Tensor], text: str) -> None:
    error = refusal(BATCHING, Request(tensors=tensors))
    assert str(error) == text
    assert error.identify


def test_names_that_the_model_lacks_are_refused_without_the_requests_id() -> None:
    unknown_input = refusal(BATCHING, Request(tensors=[fp32((1, 3), "WRONG")]))
    assert str(unknown_input) == "unexpected inference input 'WRONG' for model 'm'"
    unknown_output = refusal(BATCHING, Request(tensors=[], outputs=("Y", "NOPE")))
    assert str(unknown_output) == "unexpected inference output 'NOPE' for model 'm'"
    assert not unknown_input.identify
    assert not unknown_output.identify


def test_a_missing_required_input_is_named_even_if_the_number_of_inputs_fits() -> None:
    error = refusal(BATCHING, Request(tensors=[int64((1, 1, 2))]))
    assert "['A']" in str(error)


def test_the_datatype_is_compared_before_the_shape_and_the_batch_size_before_both() -> None:
    assert "data-type" in str(refusal(BATCHING, Request(tensors=[Tensor("A", "INT32", (1, 9), b"")])))
    with pytest.raises(BatchTooWide) as caught:
        validate(BATCHING, Request(tensors=[Tensor("A", "INT32", (5, 9), b"")]))
    assert (caught.value.rows, caught.value.max_rows) == (5, 4)


def test_a_wrong_shape_shows_the_batch_axis_and_explains_it() -> None:
    text = str(refusal(BATCHING, Request(tensors=[fp32((1, 2))])))
    assert text.startswith(
        "unexpected shape for input 'A' for model 'm'. Expected [-1,3], got [1,2]. NOTE: Setting a non-zero"
    )
    plain = str(refusal(PLAIN, strings(b"", (1, 1))))
    assert plain == "unexpected shape for input 'S' for model 'm'. Expected [-1], got [1,1]. "


@pytest.mark.parametrize("shape", [(2**62, 2**62, 2), (2**63, 1, 2), (1, -1, 2), (1, 2**63, 2)])
def test_shapes_that_overflow_or_are_negative_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises((InvalidTensor, BatchTooWide)):
        validate(BATCHING, Request(tensors=[fp32((1, 3)), Tensor("B", "INT64", shape, b"")]))


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        (pack_bytes(["a", "b"]), (3,), "expected 3 string elements for inference input 'S' for model 'm', got 2"),
        (
            pack_bytes(["a", "b"]),
            (1,),
            "unexpected number of string elements 2 for inference input 'S' for model 'm', expecting 1",
        ),
        (
            b"ab",
            (1,),
            "incomplete string length indicator for inference input 'S' for model 'm', expecting 4 bytes but only 2 "
            "bytes available. Please make sure the string length indicator is in one buffer.",
        ),
        (
            struct.pack("<I", 2**32 - 1) + b"abc",
            (1,),
            "incomplete string data for inference input 'S' for model 'm', expecting "
            "string of length 4294967295 but only 3 bytes available",
        ),
    ],
)
def test_strings_are_counted_and_measured(data: bytes, shape: tuple[int, ...], text: str) -> None:
    assert str(refusal(PLAIN, strings(data, shape))) == text


SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, -1, 2**40])
SHAPES = st.lists(SIZES, max_size=3).map(tuple)
TENSORS = st.builds(
    Tensor,
    st.sampled_from("AABS"),
    st.sampled_from(["FP32", "FP32", "INT64", "BYTES"]),
    SHAPES,
    st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12]).map(lambda count: bytes(4 * count)),
)
CONFIGS = [BATCHING, PLAIN, ModelConfig(name="m", version="1", backend="python", max_batch_size=4, inputs=PAIR[1:])]


def told(config: ModelConfig, request: Request) -> int | str:
    try:
        return validate(config, request)
    except (InvalidTensor, BatchTooWide) as error:
        return str(error)


@given(
    st.sampled_from(CONFIGS), st.lists(TENSORS, max_size=2), st.sampled_from([(), ("Y",), ("Y", "Y"), ("NOPE",), ("Y", "Z")])
)
def test_the_usual_request_is_told_what_all_checks_would_say(
    config: ModelConfig, tensors: list[Tensor], outputs: tuple[str, ...]
) -> None:
    request = Request(tensors=tensors, outputs=outputs)
    found = told(config, request)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(validation, "_usual", lambda config, request: None)
        assert found == told(config, request)


@pytest.mark.parametrize(
    ("config", "request_"),
    [
        (BATCHING, Request(tensors=[fp32((2, 3)), int64((2, 5, 2))], outputs=("Y",))),
        (CONFIGS[2], Request(tensors=[int64((4, 1, 2))])),
    ],
)
def test_named_outputs_and_variable_sizes_are_usual(config: ModelConfig, request_: Request) -> None:
    assert validation._usual(config, request_) == validate(config, request_)
