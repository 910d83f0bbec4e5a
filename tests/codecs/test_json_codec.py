"""json: the three forms of input, the answers, and the errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jitney.codecs import create
from jitney.codecs.base import Codec
from jitney.codecs.json_codec import with_json
from jitney.core.errors import InvalidRequest, ModelFailed, Unsupported
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Part, Response
from jitney.core.tensor import DATATYPES, Tensor


def codec(*inputs: TensorSpec, batch: int = 8) -> Codec:
    return create(ModelConfig("m", "1", "onnxruntime", max_batch_size=batch, inputs=inputs))


X = TensorSpec("x", "FP32", (2,))
ONE, TWO = codec(X), codec(X, TensorSpec("y", "INT64", (1,)), TensorSpec("z", "FP32", (1,), optional=True))
PLAIN = codec(X, batch=0)
TEXT = codec(TensorSpec("text", "BYTES", (1,)))
PAIR = codec(TensorSpec("text", "BYTES", (1,)), TensorSpec("times", "INT32", (1,)))


def decode(target: Codec, body: Any, name: str = "body") -> dict[str, list[Any]]:
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
    def test_forms(self, target: Codec, body: Any, expected: dict[str, Any]) -> None:
        assert decode(target, body) == expected

    def test_kserve(self) -> None:
        body = {
            "id": "1",
            "inputs": [
                {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
                {"name": "y", "shape": [2, 1], "datatype": "INT64", "data": [[5], [6]]},
            ],
        }
        assert decode(TWO, body) == {"x": [[1, 2], [3, 4]], "y": [[5], [6]]}

    def test_an_input_called_inputs_is_not_kserve(self) -> None:
        assert decode(codec(TensorSpec("inputs", "FP32", (2,))), {"inputs": [1, 2]}) == {"inputs": [[1, 2]]}

    def test_form_fields_by_input_name(self) -> None:
        tensors = TWO.decode([Part("x", b"[1, 2]"), Part("y", b"[7]")], {})
        assert {tensor.name: tensor.numpy().tolist() for tensor in tensors} == {"x": [[1, 2]], "y": [[7]]}

    @pytest.mark.parametrize(
        ("target", "body", "expected"),
        [
            (TEXT, {"text": "hi"}, {"text": [[b"hi"]]}),
            (TEXT, {"text": ["hi"]}, {"text": [[b"hi"]]}),
            (TEXT, {"text": ["a", "b"]}, {"text": [[b"a"], [b"b"]]}),
            (TEXT, {"text": {"b64": "/9g="}}, {"text": [[b"\xff\xd8"]]}),
            (TEXT, {"b64": "/9g="}, {"text": [[b"\xff\xd8"]]}),
            (codec(TensorSpec("text", "BYTES", (1,)), batch=0), {"text": "hi"}, {"text": [b"hi"]}),
            (codec(TensorSpec("text", "BYTES", (-1,))), {"text": "hi"}, {"text": [[b"hi"]]}),
            (codec(TensorSpec("text", "BYTES", ()), batch=0), {"text": "hi"}, {"text": b"hi"}),
            (codec(TensorSpec("n", "INT32", (1, 1))), {"n": 5}, {"n": [[[5]]]}),
            (codec(TensorSpec("n", "INT32", (1, 1))), [5, 6], {"n": [[[5]], [[6]]]}),
            (codec(TensorSpec("n", "INT32", (-1,))), [5, 6], {"n": [[5, 6]]}),
            (PAIR, {"text": "ab", "times": 3}, {"text": [[b"ab"]], "times": [[3]]}),
            (PAIR, {"text": ["a", "b"], "times": [3, 4]}, {"text": [[b"a"], [b"b"]], "times": [[3], [4]]}),
        ],
    )
    def test_values_where_the_shape_leaves_one_meaning(self, target: Codec, body: Any, expected: dict[str, Any]) -> None:
        assert decode(target, body) == expected

    @pytest.mark.parametrize("key", ["instances", "inputs"])
    @pytest.mark.parametrize(
        ("target", "rows", "expected"),
        [
            (ONE, [[1, 2], [3, 4]], {"x": [[1, 2], [3, 4]]}),
            (ONE, [{"x": [1, 2]}, {"x": [3, 4]}], {"x": [[1, 2], [3, 4]]}),
            (TEXT, ["a", "b"], {"text": [[b"a"], [b"b"]]}),
            (TEXT, [["a"]], {"text": [[b"a"]]}),
            (TEXT, [{"b64": "/9g="}, {"b64": "AA=="}], {"text": [[b"\xff\xd8"], [b"\0"]]}),
            (PAIR, [{"text": "a", "times": 3}, {"text": "b", "times": [4]}], None),
            (PAIR, [{"text": "a", "times": 3}, {"times": 4, "text": "b"}], {"text": [[b"a"], [b"b"]], "times": [[3], [4]]}),
            (TWO, [{"x": [1, 2], "y": [3]}], {"x": [[1, 2]], "y": [[3]]}),
            (PLAIN, [[1, 2]], {"x": [1, 2]}),
            (PLAIN, [1, 2], {"x": [1, 2]}),
            (codec(TensorSpec("x", "FP32", (-1, 2)), batch=0), [[1, 2], [3, 4]], {"x": [[1, 2], [3, 4]]}),
            (codec(TensorSpec("x", "FP32", (-1,)), batch=0), [[1, 2, 3]], {"x": [1, 2, 3]}),
            (codec(TensorSpec("text", "BYTES", (1, 1)), batch=0), ["a"], {"text": [[b"a"]]}),
        ],
    )
    def test_kserve_v1(self, key: str, target: Codec, rows: list[Any], expected: dict[str, Any] | None) -> None:
        body = {key: rows, "signature_name": "serving_default"}
        if expected is None:
            with pytest.raises(InvalidRequest, match="ragged"):
                decode(target, body)
        else:
            assert decode(target, body) == expected

    @pytest.mark.parametrize("content_type", ["image/jpeg", "text/plain", "application/octet-stream", "text/csv", ""])
    @pytest.mark.parametrize("name", ["body", "data"])
    def test_a_body_as_it_comes_for_the_only_input_of_bytes(self, content_type: str, name: str) -> None:
        data = b"\xff\xd8 not text" if content_type != "text/csv" else b"[1, 2]"
        (tensor,) = TEXT.decode([Part(name, memoryview(data), content_type)], {})
        assert (tensor.name, tensor.shape, tensor.numpy().tolist()) == ("text", (1, 1), [[data]])

    @pytest.mark.parametrize(
        ("data", "content_type", "expected"),
        [
            (b'"hi"', "application/json", b"hi"),
            (b'["hi"]', "application/vnd.x+json", b"hi"),
            (b'["hi"]', "", b"hi"),
            (b'  {"text": "hi"}', "", b"hi"),
            (b'"hi"', "", b'"hi"'),
            (b"[not json", "", b"[not json"),
            (b"{{ template }}", "", b"{{ template }}"),
            (b'["hi"]', "text/plain", b'["hi"]'),
        ],
    )
    def test_what_is_json_for_an_input_of_bytes(self, data: bytes, content_type: str, expected: bytes) -> None:
        (tensor,) = TEXT.decode([Part("body", data, content_type)], {})
        assert tensor.numpy().tolist() == [[expected]]

    def test_rows_of_a_body_as_it_comes(self) -> None:
        for dims, batch, shape in (((1,), 0, (1,)), ((-1,), 8, (1, 1)), ((), 8, (1,)), ((1, 1), 0, (1, 1))):
            (tensor,) = codec(TensorSpec("t", "BYTES", dims), batch=batch).decode([Part("body", b"x", "text/plain")], {})
            assert tensor.shape == shape
        optional = codec(TensorSpec("t", "BYTES", (1,)), TensorSpec("n", "INT32", (1,), optional=True))
        (tensor,) = optional.decode([Part("body", b"x", "text/plain")], {})
        assert tensor.name == "t"

    @pytest.mark.parametrize(
        "parts",
        [
            [Part("image", b"\xff", "image/jpeg"), Part("times", b"3")],
            [Part("data", b"\xff", "image/jpeg"), Part("times", b"3")],
            [Part("times", b"3"), Part("body", b"\xff", "")],
            [Part("times", b"3"), Part("image", b'{"b64": "/w=="}', "application/json")],
            [Part("image", b"\xff"), Part("times", b"3"), Part("model_name", b"m"), Part("body", b"")],
        ],
    )
    def test_form_fields_of_bytes_come_as_they_are(self, parts: list[Part]) -> None:
        target = codec(TensorSpec("image", "BYTES", (1,)), TensorSpec("times", "INT32", (1,), optional=True))
        found = {tensor.name: tensor.numpy().tolist() for tensor in target.decode(parts, {})}
        assert found == {"image": [[b"\xff"]], "times": [[3]]}

    def test_a_field_of_bytes_is_not_looked_into(self) -> None:
        tensors = PAIR.decode([Part("text", b'["a"]'), Part("times", b"3")], {})
        assert [tensor.numpy().tolist() for tensor in tensors] == [[[b'["a"]']], [[3]]]

    def test_the_only_file_of_a_form_whatever_its_name(self) -> None:
        (tensor,) = TEXT.decode([Part("file", b"\xff", "image/jpeg")], {})
        assert tensor.numpy().tolist() == [[b"\xff"]]

    @pytest.mark.parametrize("datatype", sorted(DATATYPES - {"BYTES", "BOOL"}))
    def test_all_number_types(self, datatype: str) -> None:
        (tensor,) = codec(TensorSpec("x", datatype, (-1,)), batch=0).decode([Part("body", b"[0, 1, 2, 100]")], {})
        assert tensor.datatype == datatype
        values = tensor.numpy()
        if datatype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        assert values.tolist() == [0, 1, 2, 100]

    def test_bf16_rounds_to_nearest_even(self) -> None:
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
            (ONE, b"\xff\xd8", "Model 'm' takes 'x' as JSON; pictures and texts as they come are for models"),
            (TWO, b"\xff\xd8", "Model 'm' takes 'x', 'y', 'z' as JSON"),
            (ONE, {"instances": []}, "at least one instance"),
            (ONE, {"instances": {"x": [1, 2]}}, "'instances' must be a list"),
            (ONE, {"inputs": {"x": [[1, 2]]}}, "'inputs' must be a list"),
            (ONE, {"instances": [[1, 2]], "parameters": {}}, "'parameters' beside 'instances' is not supported here"),
            (ONE, {"instances": [[1, 2]], "signature_name": "other"}, "'signature_name' beside"),
            (ONE, {"instances": [[1, 2]], "foo": None}, "'foo' beside"),
            (ONE, {"instances": [[1, 2], [3]]}, "'x': the list is ragged"),
            (ONE, {"instances": [[1, 2, 3]]}, "expected [-1, 2]"),
            (ONE, {"instances": [{"w": [1, 2]}]}, "unexpected input 'w'"),
            (PAIR, {"instances": ["a"]}, "several inputs"),
            (PAIR, {"instances": [{"text": "a"}]}, "input 'times' is missing"),
            (PAIR, {"instances": [{"text": "a", "times": 1}, {"text": "a"}]}, "instance 1 has other inputs than the first"),
            (PLAIN, {"instances": [[1, 2], [3, 4]]}, "takes one instance at a time (max_batch_size is 0)"),
            (TEXT, {"text": {"b64": "*"}}, "not base64"),
            (TEXT, {"text": {"c64": "*"}}, "BYTES"),
            (codec(TensorSpec("t", "BYTES", (2,))), b"\xff", "has dims [2], and a body as it comes is one element"),
            (
                ONE,
                {"inputs": [{"name": "x", "data": [1, 2]}], "outputs": [{"name": "y"}]},
                "'outputs' is not supported here",
            ),
        ],
    )
    def test_the_culprit_is_named(self, target: Codec, body: Any, words: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            decode(target, body)
        assert words in str(caught.value)

    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ([Part("text", b"a"), Part("data", b"b")], "input 'text' is given twice"),
            ([Part("text", b"a"), Part("tmes", b"3")], "unexpected field 'tmes'; model 'm' has 'text'"),
            ([Part("data", b"a"), Part("tmes", b"3")], "unexpected field 'tmes'"),
            ([Part("txt", b"a")], "or in fields named 'text', found fields: 'txt'"),
        ],
    )
    def test_fields_that_do_not_fit(self, parts: list[Part], words: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            TEXT.decode(parts, {})
        assert words in str(caught.value)

    def test_a_field_that_is_no_json(self) -> None:
        with pytest.raises(InvalidRequest, match="field 'y' is not valid JSON"):
            TWO.decode([Part("x", b"[1, 2]"), Part("y", b"{")], {})

    def test_models_without_declared_inputs(self) -> None:
        with pytest.raises(Unsupported, match="declares no inputs"):
            decode(codec(), [1])


def answer(target: Codec, *tensors: Tensor, asked: bytes = b"[1, 2]") -> Response:
    return target.read([Part("body", asked)], {})[1](Response(tensors=list(tensors)))


class TestEncode:
    def test_one_output_is_a_list(self) -> None:
        response = answer(ONE, Tensor.from_numpy("p", np.array([[0.1, 0.5]], np.float32)))
        assert bytes(response.body or b"") == b"[[0.1,0.5]]"
        assert response.headers == {"content-type": "application/json"}

    def test_several_outputs_are_an_object(self) -> None:
        texts = Tensor.from_numpy("t", np.array([["a", "é"]]))
        response = answer(ONE, Tensor.from_numpy("p", np.array([[1]], np.int64)), texts)
        assert json.loads(bytes(response.body or b"")) == {"p": [[1]], "t": [["a", "é"]]}

    @pytest.mark.parametrize("datatype", sorted(DATATYPES - {"BYTES"}))
    def test_all_types_return_as_they_came(self, datatype: str) -> None:
        spec = TensorSpec("x", datatype, (2,))
        (tensor,) = codec(spec).decode([Part("body", b"[[0, 1], [1, 0]]")], {})
        assert json.loads(bytes(answer(codec(spec), tensor, asked=b"[0, 1]").body or b"")) == [[0, 1], [1, 0]]

    @pytest.mark.parametrize("second", [[], [Tensor.from_numpy("q", np.array([1]))]])
    def test_not_a_number_is_not_null(self, second: list[Any]) -> None:
        response = answer(ONE, Tensor.from_numpy("p", np.array([[float("nan"), 1.0]], np.float32)), *second)
        assert b"NaN" in bytes(response.body or b"")

    def test_kserve_in_kserve_out(self) -> None:
        asked = b' {"inputs": [ {"name": "x", "shape": [1,2], "datatype": "FP32", "data": [1,2]}]}'
        tensors = Tensor.from_numpy("p", np.array([[1, 2]], np.int32)), Tensor.from_numpy("t", np.array([["a", "b"]]))
        assert json.loads(bytes(answer(ONE, *tensors, asked=asked).body or b"")) == {
            "model_name": "m",
            "model_version": "1",
            "outputs": [
                {"name": "p", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]},
                {"name": "t", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]},
            ],
        }

    def test_kserve_not_a_number(self) -> None:
        asked = b'{"inputs": [{"name": "x", "data": [1, 2]}]}'
        nan = Tensor.from_numpy("p", np.array([[float("nan")]]))
        assert b"NaN" in bytes(answer(ONE, nan, asked=asked).body or b"")

    def test_kserve_v1_predictions(self) -> None:
        two, three = b'{"instances": [[1, 2], [3, 4]]}', b'{"instances": [[1, 2]]}'
        y = Tensor.from_numpy("y", np.array([[3, 5], [7, 9]], np.float32))
        z = Tensor.from_numpy("z", np.array([[float("nan")], [2]], np.float16))
        t = Tensor.from_numpy("t", np.array(["a", "b"]))
        assert json.loads(bytes(answer(ONE, y, asked=two).body or b"")) == {"predictions": [[3, 5], [7, 9]]}
        found = bytes(answer(ONE, y, z, t, asked=two).body or b"")
        assert json.loads(found.replace(b"NaN", b"0")) == {
            "predictions": [{"y": [3, 5], "z": [0], "t": "a"}, {"y": [7, 9], "z": [2], "t": "b"}]
        }
        assert b"NaN" in found
        assert json.loads(bytes(answer(PLAIN, Tensor.from_numpy("y", np.array([3, 5])), asked=three).body or b"")) == {
            "predictions": [[3, 5]]
        }
        with pytest.raises(ModelFailed, match=r"shape \[3\] for 2 instances"):
            answer(ONE, Tensor.from_numpy("y", np.array([3, 5, 6])), asked=two)

    @pytest.mark.parametrize("tensors", [[], [Tensor("t", "BYTES", (1,), b"\x01\0\0\0\xff")]])
    def test_outputs_that_are_no_json(self, tensors: list[Any]) -> None:
        with pytest.raises(ModelFailed) as caught:
            answer(ONE, *tensors)
        assert caught.value.code == "BAD_OUTPUT"


@pytest.mark.parametrize("number", [1.0, float("nan")])
@pytest.mark.parametrize("other", [b"bytes", {1, 2}, object()])
def test_what_is_no_json_is_a_type_error_whatever_stands_beside_it(number: float, other: object) -> None:
    with pytest.raises(TypeError):
        with_json(Response(), {"a": number, "b": other})
