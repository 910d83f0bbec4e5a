"""json: the three forms of input, the answers, and the errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jitney.backends.base import Part, Response
from jitney.backends.codecs import create
from jitney.backends.tensor import DATATYPES, Tensor
from jitney.server.errors import InvalidRequest, ModelFailed, Unsupported
from jitney.server.repository.config import ModelConfig, TensorSpec


def codec(*inputs: TensorSpec, batch: int = 8):
    return create(ModelConfig("m", "1", "onnxruntime", max_batch_size=batch, inputs=inputs))


X = TensorSpec("x", "FP32", (2,))
ONE, TWO = codec(X), codec(X, TensorSpec("y", "INT64", (1,)), TensorSpec("z", "FP32", (1,), optional=True))
PLAIN = codec(X, batch=0)


def decode(target, body: Any, name: str = "body") -> dict[str, list]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {tensor.name: tensor.numpy().tolist() for tensor in target.decode([Part(name, data)], {})}


class TestDecode:
    @pytest.mark.parametrize(
        ("target", "body", "expected"),
        [
            (ONE, [1, 2], {"x": [[1, 2]]}),
            (ONE, [[1, 2]], {"x": [[1, 2]]}),
            (ONE, [[1, 2], [3, 4.5]], {"x": [[1, 2], [3, 4.5]]}),
            (ONE, {"x": [1, 2]}, {"x": [[1, 2]]}),
            (PLAIN, [1, 2], {"x": [1, 2]}),
            (TWO, {"x": [[1, 2]], "y": [[3]]}, {"x": [[1, 2]], "y": [[3]]}),
            (TWO, {"y": [3], "x": [1, 2], "z": [0]}, {"y": [[3]], "x": [[1, 2]], "z": [[0]]}),
            (codec(TensorSpec("t", "BYTES", (-1,))), ["a", "é"], {"t": [[b"a", "é".encode()]]}),
            (codec(TensorSpec("s", "FP32", ())), 2.5, {"s": [2.5]}),
            (codec(TensorSpec("s", "FP32", ())), [1, 2], {"s": [1, 2]}),
            (codec(TensorSpec("b", "BOOL", (-1,)), batch=0), [True, 0], {"b": [True, False]}),
            (codec(TensorSpec("i", "INT8", (-1,)), batch=0), [1.0, -128], {"i": [1, -128]}),
            (codec(TensorSpec("u", "UINT64", (-1,)), batch=0), [2**64 - 1], {"u": [2**64 - 1]}),
            (codec(TensorSpec("e", "INT32", (-1,)), batch=0), [], {"e": []}),
        ],
    )
    def test_forms(self, target, body, expected):
        assert decode(target, body) == expected

    def test_kserve(self):
        body = {
            "id": "1",
            "inputs": [
                {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
                {"name": "y", "shape": [2, 1], "datatype": "INT64", "data": [[5], [6]]},
            ],
        }
        assert decode(TWO, body) == {"x": [[1, 2], [3, 4]], "y": [[5], [6]]}

    def test_an_input_called_inputs_is_not_kserve(self):
        assert decode(codec(TensorSpec("inputs", "FP32", (2,))), {"inputs": [1, 2]}) == {"inputs": [[1, 2]]}

    def test_form_fields_by_input_name(self):
        tensors = TWO.decode([Part("x", b"[1, 2]"), Part("y", b"[7]")], {})
        assert {tensor.name: tensor.numpy().tolist() for tensor in tensors} == {"x": [[1, 2]], "y": [[7]]}

    @pytest.mark.parametrize("datatype", sorted(DATATYPES - {"BYTES", "BOOL"}))
    def test_all_number_types(self, datatype):
        (tensor,) = codec(TensorSpec("x", datatype, (-1,)), batch=0).decode([Part("body", b"[0, 1, 2, 100]")], {})
        assert tensor.datatype == datatype
        values = tensor.numpy()
        if datatype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        assert values.tolist() == [0, 1, 2, 100]

    def test_bf16_rounds_to_nearest_even(self):
        (tensor,) = codec(TensorSpec("x", "BF16", (-1,)), batch=0).decode(
            [Part("body", b"[1.00390625, 1.01171875, 3.14159]")], {}
        )
        assert tensor.numpy().tolist() == [0x3F80, 0x3F82, 0x4049]


class TestRefused:
    @pytest.mark.parametrize(
        ("target", "body", "words"),
        [
            (ONE, b"{", "not valid JSON"),
            (ONE, b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
            (ONE, b'{"x":' * 100_000, "not valid JSON"),
            (ONE, b"[NaN, 1]", "not valid JSON"),
            (ONE, b"", "empty"),
            (ONE, [[1, 2], [3]], "'x': the list is ragged"),
            (ONE, [1, "2"], "expected numbers, found text"),
            (ONE, [1, None], "found null"),
            (ONE, [{"a": 1}, 2], "found an object"),
            (ONE, "text", "found text"),
            (ONE, [1, 2, 3], "expected [-1, 2] (or one row of [2]), got [1, 3]"),
            (ONE, 5, "got []"),
            (ONE, [[[1, 2]]], "got [1, 1, 2]"),
            (PLAIN, [[1, 2]], "expected [2], got [1, 2]"),
            (ONE, {"w": [1, 2]}, "unexpected input 'w'; model 'm' has 'x'"),
            (ONE, {}, "input 'x' is missing"),
            (TWO, {"x": [1, 2]}, "input 'y' is missing"),
            (TWO, [1, 2], "several inputs"),
            (TWO, {"x": [1, 2], "y": [1.5]}, "not whole"),
            (TWO, {"x": [1, 2], "y": [2**63]}, "out of the range of INT64"),
            (TWO, {"x": [1, 2], "y": [float(2**63)]}, "out of the range of INT64"),
            (TWO, {"x": [1, 2], "y": [10**30]}, "out of the range of INT64"),
            (codec(TensorSpec("i", "UINT8", (-1,))), [256], "out of the range of UINT8"),
            (codec(TensorSpec("i", "UINT8", (-1,))), [-1], "out of the range of UINT8"),
            (codec(TensorSpec("h", "FP16", (-1,))), [1e6], "out of the range of FP16"),
            (codec(TensorSpec("b", "BOOL", (-1,))), [2], "BOOL"),
            (codec(TensorSpec("t", "BYTES", (-1,))), [1], "BYTES"),
            (codec(TensorSpec("t", "BYTES", (1, 1))), [["a"], ["b", "c"]], "ragged"),
            (
                ONE,
                {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]},
                "the request says 'FP64'",
            ),
            (
                ONE,
                {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2]}]},
                "does not fit the 2 elements",
            ),
            (ONE, {"inputs": [{"name": "x", "shape": [1, -2], "datatype": "FP32", "data": [1, 2]}]}, "whole numbers from 0"),
            (ONE, {"inputs": [{"name": "x", "shape": "1", "datatype": "FP32", "data": [1, 2]}]}, "whole numbers from 0"),
            (ONE, {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}, "has no 'data'"),
            (ONE, {"inputs": [{"shape": [1, 2]}]}, "unexpected input None"),
            (ONE, {"inputs": [{"name": "x", "data": [1, 2]}, {"name": "x", "data": [1, 2]}]}, "given twice"),
            (
                ONE,
                {"inputs": [{"name": "x", "data": [1, 2]}], "outputs": [{"name": "y"}]},
                "'outputs' is not supported here",
            ),
        ],
    )
    def test_the_culprit_is_named(self, target, body, words):
        with pytest.raises(InvalidRequest) as caught:
            decode(target, body)
        assert words in str(caught.value)

    def test_models_without_declared_inputs(self):
        with pytest.raises(Unsupported, match="declares no inputs"):
            decode(codec(), [1])


def answer(target, *tensors: Tensor, asked: bytes = b"[1, 2]"):
    return target.encoder([Part("body", asked)])(Response(tensors=list(tensors)))


class TestEncode:
    def test_one_output_is_a_list(self):
        response = answer(ONE, Tensor.from_numpy("p", np.array([[0.1, 0.5]], np.float32)))
        assert bytes(response.body) == b"[[0.1,0.5]]"
        assert response.headers == {"content-type": "application/json"}

    def test_several_outputs_are_an_object(self):
        texts = Tensor.from_numpy("t", np.array([["a", "é"]]))
        response = answer(ONE, Tensor.from_numpy("p", np.array([[1]], np.int64)), texts)
        assert json.loads(response.body) == {"p": [[1]], "t": [["a", "é"]]}

    @pytest.mark.parametrize("datatype", sorted(DATATYPES - {"BYTES"}))
    def test_all_types_return_as_they_came(self, datatype):
        spec = TensorSpec("x", datatype, (2,))
        (tensor,) = codec(spec).decode([Part("body", b"[[0, 1], [1, 0]]")], {})
        assert json.loads(answer(codec(spec), tensor).body) == [[0, 1], [1, 0]]

    @pytest.mark.parametrize("second", [[], [Tensor.from_numpy("q", np.array([1]))]])
    def test_not_a_number_is_not_null(self, second):
        response = answer(ONE, Tensor.from_numpy("p", np.array([[float("nan"), 1.0]], np.float32)), *second)
        assert b"NaN" in response.body

    def test_kserve_in_kserve_out(self):
        asked = b' {"inputs": [ {"name": "x", "shape": [1,2], "datatype": "FP32", "data": [1,2]}]}'
        tensors = Tensor.from_numpy("p", np.array([[1, 2]], np.int32)), Tensor.from_numpy("t", np.array([["a", "b"]]))
        assert json.loads(answer(ONE, *tensors, asked=asked).body) == {
            "model_name": "m",
            "model_version": "1",
            "outputs": [
                {"name": "p", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]},
                {"name": "t", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]},
            ],
        }

    def test_kserve_not_a_number(self):
        asked = b'{"inputs": [{"name": "x"}]}'
        assert b"NaN" in answer(ONE, Tensor.from_numpy("p", np.array([[float("nan")]])), asked=asked).body

    @pytest.mark.parametrize("tensors", [[], [Tensor("t", "BYTES", (1,), b"\x01\0\0\0\xff")]])
    def test_outputs_that_are_no_json(self, tensors):
        with pytest.raises(ModelFailed) as caught:
            answer(ONE, *tensors)
        assert caught.value.code == "BAD_OUTPUT"
