"""Reading requests: parameters, typed contents, raw contents, shared memory. Texts are Triton's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitney.core.errors import InvalidRequest, Unsupported
from jitney.core.tensor import unpack_bytes
from jitney.server.grpc import schema
from jitney.server.grpc.triton.request import Reader
from jitney.server.grpc.triton.versions import version_of
from jitney.server.http.kserve.errors import RegionNotFound
from jitney.server.http.kserve.shm import ClientRegions

KIND = schema.triton().message("inference.ModelInferRequest")


def read(message: Any) -> Any:
    return Reader(message.SerializeToString()).read(ClientRegions())


def request(datatype: str = "FP32", shape: tuple[int, ...] = (1, 2), **contents: Any) -> Any:
    message = KIND(model_name="m", id="7")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return message


def refusal(message: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(message)
    return str(caught.value)


@pytest.mark.parametrize("nbytes", [8, 100_000])
def test_raw_contents_become_tensors_in_the_order_of_the_inputs(nbytes: Any) -> None:
    message = request()
    message.inputs.add(name="z", datatype="INT8", shape=(nbytes,))
    message.raw_input_contents.extend([b"01234567", b"y" * nbytes])
    infer, empty_final = read(message)
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in infer.request.tensors] == [
        ("x", "FP32", (1, 2), b"01234567"),
        ("z", "INT8", (nbytes,), b"y" * nbytes),
    ]
    assert (infer.request.id, empty_final, infer.request.outputs) == ("7", False, ())


@pytest.mark.parametrize(
    ("datatype", "field", "values", "expected"),
    [
        ("BOOL", "bool_contents", [True, False], np.array([True, False])),
        ("INT8", "int_contents", [1, -2, 300], np.array([1, -2, 44], np.int8)),
        ("INT16", "int_contents", [-5, 70000], np.array([-5, 4464], np.int16)),
        ("INT32", "int_contents", [-5, 7], np.array([-5, 7], np.int32)),
        ("INT64", "int64_contents", [-(2**63)], np.array([-(2**63)], np.int64)),
        ("UINT8", "uint_contents", [255, 256], np.array([255, 0], np.uint8)),
        ("UINT16", "uint_contents", [65537], np.array([1], np.uint16)),
        ("UINT32", "uint_contents", [2**32 - 1], np.array([2**32 - 1], np.uint32)),
        ("UINT64", "uint64_contents", [2**64 - 1], np.array([2**64 - 1], np.uint64)),
        ("FP32", "fp32_contents", [1.5, -2.0], np.array([1.5, -2.0], np.float32)),
        ("FP64", "fp64_contents", [1e300], np.array([1e300])),
    ],
)
def test_typed_contents(datatype: Any, field: Any, values: Any, expected: Any) -> None:
    infer, _ = read(request(datatype, (len(values),), **{field: values}))
    (tensor,) = infer.request.tensors
    assert bytes(tensor.data) == expected.tobytes()


def test_typed_contents_of_strings() -> None:
    infer, _ = read(request("BYTES", (2,), bytes_contents=[b"", b"\xff text"]))
    assert unpack_bytes(infer.request.tensors[0].data) == [b"", b"\xff text"]


def test_contents_that_do_not_fit() -> None:
    where = "unexpected explicit tensor data for input tensor 'x' for model 'm'"
    assert refusal(request(int_contents=[1])) == f"{where} of type 'INT32', expected datatype 'FP32'"
    assert refusal(request("FP16", fp32_contents=[1])) == f"{where} of type 'FP32', expected datatype 'FP16'"
    both = request("INT32", int_contents=[1], int64_contents=[1])
    assert refusal(both) == f"{where}, binary data was already supplied."
    mixed = request(fp32_contents=[1, 2])
    mixed.raw_input_contents.append(b"01234567")
    text = "contents field must not be specified when using raw_input_contents for 'x' for model 'm'"
    assert refusal(mixed) == text
    assert refusal(request()) == "unable to find data for input tensor 'x' for model 'm' in request."


def test_more_raw_contents_than_inputs_are_passed_over() -> None:
    message = request()
    message.raw_input_contents.extend([b"01234567", b"more"])
    assert len(read(message)[0].request.tensors) == 1


def with_parameter(name: str, **value: Any) -> Any:
    message = request(fp32_contents=[1, 2])
    for field, given in value.items():
        setattr(message.parameters[name], field, given)
    return message


def test_parameters_with_a_meaning() -> None:
    message = with_parameter("priority", uint64_param=2)
    message.parameters["timeout"].int64_param = 9
    message.parameters["sequence_id"].int64_param = -1
    message.parameters["sequence_start"].bool_param = True
    message.parameters["own"].double_param = 0.5
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    infer, empty_final = read(message)
    given = infer.parameters
    assert (given.priority, given.timeout_us, given.sequence.id, given.sequence.start) == (2, 9, 2**64 - 1, True)
    assert (given.custom, empty_final) == ({"own": 0.5}, True)
    assert infer.request.parameters["own"] == 0.5


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("priority", {"string_param": "1"}, "for 'priority' parameter, expected int64_param or uint64_param."),
        ("priority", {"int64_param": -1}, "invalid value for 'priority', expected value >= 0."),
        ("timeout", {"uint64_param": 1}, "for 'timeout' parameter, expected int64_param."),
        ("sequence_id", {"bool_param": True}, "for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_start", {"int64_param": 1}, "for 'sequence_start' parameter, expected bool_param."),
        ("sequence_end", {"int64_param": 1}, "for 'sequence_end' parameter, expected bool_param."),
        ("triton_x", {"bool_param": True}, "allowed: triton_enable_empty_final_response"),
        ("triton_enable_empty_final_response", {"int64_param": 1}, "expected bool_param."),
        ("own", {"uint64_param": 1}, "for 'own' parameter, expected int64_param, bool_param, or string_param."),
    ],
)
def test_parameters_of_the_wrong_kind(name: Any, value: Any, text: Any) -> None:
    assert refusal(with_parameter(name, **value)).endswith(text)


def test_a_text_that_names_a_sequence_has_at_most_128_bytes() -> None:
    infer, _ = read(with_parameter("sequence_id", string_param="é" * 64))
    assert infer.parameters.sequence.id == "é" * 64
    with pytest.raises(Unsupported, match="string correlation ID cannot be longer than 128 characters"):
        read(with_parameter("sequence_id", string_param="é" * 65))


def with_output(**parameters: Any) -> Any:
    message = request(fp32_contents=[1, 2])
    output = message.outputs.add(name="y")
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(output.parameters[name], field, value)
    return message


def test_outputs_that_are_asked_for() -> None:
    infer, _ = read(with_output(classification=3))
    assert (infer.wanted["y"].classes, infer.request.outputs) == (3, ("y",))
    assert refusal(with_output(classification=0)) == "invalid value for 'classification' parameter, expected >= 1"
    assert refusal(with_output(classification="3")).endswith("for 'classification' parameter, expected int64_param")
    assert refusal(with_output(shared_memory_region="r")).startswith("'shared_memory_byte_size' must be specified")
    assert refusal(with_output(shared_memory_offset=1)).startswith("'shared_memory_offset' can not be specified without")
    assert refusal(with_output(shared_memory_region=1)).endswith("for tensor 'y', expected string_param.")
    with pytest.raises(RegionNotFound, match="Unable to find shared memory region: 'r'"):
        read(with_output(shared_memory_region="r", shared_memory_byte_size=8))


@pytest.mark.parametrize(
    ("text", "version"), [("", None), ("3", "3"), ("003", "3"), ("1.0", "1.0"), ("2.0-beta", "2.0-beta")]
)
def test_versions(text: Any, version: Any) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize("text", ["x", "1 2", "９", "99999999999999999999"])
def test_what_is_no_version(text: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"failed to get model version from specified version string .* \(details: stol\)"
    ):
        version_of(text)


@pytest.mark.parametrize("text", ["-1", "0"])
def test_versions_begin_with_one(text: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=f"invalid model version specified '{text}' , version should be an integral value > 0"
    ):
        version_of(text)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the request is no ModelInferRequest"):
        Reader(b"\xff\xff")
    with pytest.raises(InvalidRequest, match="the request is no ModelInferRequest"):
        Reader(b"\xff" * 100_000)
