"""The infer route: every form of request and reply, and what is refused, with which status and words."""

from __future__ import annotations

import json
import re
from typing import Any

import falcon.inspect
import falcon.testing
import numpy as np
import pytest

from jitney.core.errors import (
    Cancelled,
    JitneyError,
    ModelFailed,
    ModelNotReady,
    NoWorkers,
    QueueFull,
    QueueTimeout,
    WorkerDied,
)
from jitney.core.request import Response
from jitney.core.tensor import NUMPY_DTYPES, pack_bytes
from jitney.server.http.inline import MAX_PARSED
from jitney.server.http.kserve.errors import describe
from jitney.tests.fakes.dataplane import FakeDataPlane
from jitney.tests.server.http.kserve.messages import binary, entry, floats, post, split
from jitney.tests.server.http.kserve.test_compression import UNPACKERS

Client = falcon.testing.TestClient
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
ONE = entry("INPUT0", [1, 3], "FP32", data=[1.5, -2, 0.1])


def error(reply: falcon.testing.Result, status: int) -> str:
    assert reply.status_code == status, reply.text
    assert list(reply.json) == ["error"]
    text: str = reply.json["error"]
    return text


def test_the_reply_has_tritons_keys_order_and_floats(client: Client) -> None:
    reply = post(client, "identity", {"id": "42", "inputs": [ONE], "nonsense": 3})
    assert reply.text == (
        '{"id":"42","model_name":"identity","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[1,3],'
        '"data":[1.5,-2.0,0.10000000149011612]}]}'
    )
    assert reply.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in reply.headers


def test_nested_and_flat_data_are_the_same(client: Client) -> None:
    nested = post(client, "identity", {"inputs": [entry("INPUT0", [2, 2], "FP32", data=[[1, 2], [3, 4]])]})
    flat = post(client, "identity", {"inputs": [entry("INPUT0", [2, 2], "FP32", data=[1, 2, 3, 4])]})
    assert nested.content == flat.content
    assert nested.json["outputs"][0]["data"] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("version", ["1", "3"])
def test_a_version_can_be_named(client: Client, version: str) -> None:
    body = {"inputs": [entry("INPUT0", [1], "FP32", data=[1])]}
    assert post(client, f"versions/versions/{version}", body).json["model_version"] == version
    assert post(client, "versions", body).json["model_version"] == "3"


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [1, 65535]),
        ("UINT32", [1, 2**32 - 1]),
        ("UINT64", [1, 2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-1, 32767]),
        ("INT32", [-1, 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP32", [1.5, -2.0]),
        ("FP64", [0.1, 1e300]),
        ("BYTES", ["ab", 'é\n"x']),
    ],
)
def test_every_json_datatype_comes_back_as_it_was_sent(client: Client, datatype: str, values: list[Any]) -> None:
    body = {"inputs": [entry(f"IN_{datatype}", [2], datatype, data=values)], "outputs": [{"name": f"OUT_{datatype}"}]}
    assert post(client, "all_types", body).json["outputs"] == [entry(f"OUT_{datatype}", [2], datatype, data=values)]


@pytest.mark.parametrize("datatype", [*NUMPY_DTYPES, "BYTES"])
def test_every_binary_datatype_comes_back_byte_for_byte(client: Client, datatype: str) -> None:
    data = pack_bytes([b"ab", b"", b"\0\xff\xfe"]) if datatype == "BYTES" else bytes(3 * NUMPY_DTYPES[datatype].itemsize)
    body, headers = binary((entry(f"IN_{datatype}", [3], datatype), data), parameters={"binary_data_output": True})
    reply = post(client, "all_types", body, headers)
    document, raw = split(reply)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert document["outputs"] == [entry(f"OUT_{datatype}", [3], datatype, parameters={"binary_data_size": len(data)})]
    assert raw == data


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_large_tensors_follow_in_the_models_order(client: Client, encoding: str) -> None:
    """They are sent from where they lie (`Reply.rest`), and the small ones between them too."""
    large, small, other = bytes(range(256)) * 1000, np.arange(3, dtype=np.int32).tobytes(), floats(*range(100_000))
    body, headers = binary(
        (entry("IN_UINT8", [len(large)], "UINT8"), large),
        (entry("IN_INT32", [3], "INT32"), small),
        (entry("IN_FP32", [100_000], "FP32"), other),
        parameters={"binary_data_output": True},
    )
    reply = post(client, "all_types", body, {**headers, "Accept-Encoding": encoding})
    found = UNPACKERS[encoding](reply.content) if encoding else reply.content
    size = int(reply.headers["inference-header-content-length"])
    sizes = {output["name"]: output["parameters"]["binary_data_size"] for output in json.loads(found[:size])["outputs"]}
    data = {"OUT_UINT8": large, "OUT_INT32": small, "OUT_FP32": other}
    assert sizes == {name: len(data[name]) for name in sizes} and set(sizes) == set(data)
    assert found[size:] == b"".join(data[name] for name in sizes)


def test_json_and_binary_mix_both_ways_and_outputs_keep_the_models_order(client: Client) -> None:
    body, headers = binary(
        (entry("IN_INT32", [2], "INT32"), np.array([7, 8], np.int32).tobytes()),
        (entry("IN_UINT8", [3], "UINT8"), b"abc"),
        outputs=[
            {"name": "OUT_FP32"},
            {"name": "OUT_INT32", "parameters": {"binary_data": True}},
            {"name": "OUT_UINT8", "parameters": {"binary_data": True}},
        ],
    )
    size = int(headers["Inference-Header-Content-Length"])
    document = json.loads(body[:size])
    document["inputs"].insert(1, entry("IN_FP32", [1], "FP32", data=[1.5]))
    head = json.dumps(document).encode()
    reply = post(client, "all_types", head + body[size:], {"inference-header-content-length": str(len(head))})
    answer, raw = split(reply)
    assert [output["name"] for output in answer["outputs"]] == ["OUT_UINT8", "OUT_INT32", "OUT_FP32"]
    assert answer["outputs"][2]["data"] == [1.5]
    assert raw == b"abc" + np.array([7, 8], np.int32).tobytes()


def test_one_output_may_differ_from_what_the_request_says_for_all(client: Client) -> None:
    body = {
        "inputs": [ONE],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": False}}],
    }
    assert "data" in post(client, "identity", body).json["outputs"][0]


def test_a_named_output_is_json_whatever_the_request_says_for_all(client: Client) -> None:
    body = {"inputs": [ONE], "parameters": {"binary_data_output": True}, "outputs": [{"name": "OUTPUT0"}]}
    reply = post(client, "identity", body)
    assert "data" in reply.json["outputs"][0]
    assert "inference-header-content-length" not in reply.headers


def test_binary_outputs_without_a_byte_make_a_reply_of_json_alone(client: Client) -> None:
    body, headers = binary((entry("IN_FP32", [0], "FP32"), b""), parameters={"binary_data_output": True})
    reply = post(client, "all_types", body, headers)
    assert reply.json["outputs"] == [entry("OUT_FP32", [0], "FP32", parameters={"binary_data_size": 0})]
    assert reply.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in reply.headers


def test_parameters_of_a_tensor_may_be_null(client: Client) -> None:
    body = {"inputs": [{**ONE, "parameters": None}], "outputs": [{"name": "OUTPUT0", "parameters": None}]}
    assert "data" in post(client, "identity", body).json["outputs"][0]


def test_a_byte_order_mark_is_passed_over(client: Client) -> None:
    assert "data" in post(client, "identity", b"\xef\xbb\xbf" + json.dumps({"inputs": [ONE]}).encode()).json["outputs"][0]


def test_not_a_number_and_infinities_go_both_ways(client: Client) -> None:
    reply = post(
        client,
        "identity",
        b'{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[NaN,Infinity,-Infinity,0.5]}]}',
    )
    assert '"data":[NaN,Infinity,-Infinity,0.5]' in reply.text


def test_empty_tensors_are_legal_in_both_forms(client: Client) -> None:
    assert post(client, "identity", {"inputs": [entry("INPUT0", [1, 0], "FP32", data=[])]}).json["outputs"][0]["data"] == []
    body, headers = binary((entry("INPUT0", [1, 0], "FP32"), b""))
    assert post(client, "identity", body, headers).json["outputs"][0]["shape"] == [1, 0]


def test_parameters_reach_the_scheduler_and_the_model(client: Client, dataplane: FakeDataPlane) -> None:
    parameters = {
        "priority": 2,
        "timeout": 1000,
        "sequence_id": 5,
        "sequence_start": True,
        "s": "x",
        "i": 3,
        "f": 1.5,
        "b": True,
        "seed": 12345678901234567890,
    }
    assert post(client, "identity", {"id": "a", "parameters": parameters, "inputs": [ONE]}).status_code == 200
    request = dataplane.calls[-1].request
    assert dataplane.options == [(2, 1000)]
    assert request.id == "a"
    own = {"s": "x", "i": 3, "f": 1.5, "b": True, "seed": 1.2345678901234567e19}
    assert isinstance(request.parameters["seed"], float)
    assert request.parameters == own | {"triton_timeout": 1000, "triton_sequence_id": 5, "triton_flags": 1}


def test_a_text_that_names_a_sequence_has_at_most_128_bytes(client: Client, dataplane: FakeDataPlane) -> None:
    assert post(client, "identity", {"parameters": {"sequence_id": "x" * 128}, "inputs": [ONE]}).status_code == 200
    assert dataplane.calls[-1].request.parameters == {"triton_sequence_id": "x" * 128}
    refused = post(client, "identity", {"parameters": {"sequence_id": "x" * 129}, "inputs": [ONE]})
    assert error(refused, 501) == "string correlation ID cannot be longer than 128 characters"


def test_a_models_parameters_are_in_the_reply_without_the_inner_ones(client: Client, dataplane: FakeDataPlane) -> None:
    def run(request: object) -> list[Response]:
        return [Response(parameters={"p": 1, "triton_final_response": True})]

    dataplane.served["identity"]["1"].run = run
    expected = {"model_name": "identity", "model_version": "1", "parameters": {"p": 1}, "outputs": []}
    assert post(client, "identity", {"inputs": [ONE]}).json == expected


# -- raw requests ---------------------------------------------------------------------------------------------------------


def test_a_raw_request_is_the_only_input(client: Client) -> None:
    document, raw = split(post(client, "identity", floats(1, 2, 3), {"Inference-Header-Content-Length": "0"}))
    assert document["outputs"][0] == entry("OUTPUT0", [1, 3], "FP32", parameters={"binary_data_size": 12})
    assert raw == floats(1, 2, 3)


def test_a_raw_string_needs_no_length(client: Client) -> None:
    document, raw = split(post(client, "textgen", b"hello", {"Inference-Header-Content-Length": "0"}))
    assert document["outputs"][0]["shape"] == [1, 1]
    assert raw == pack_bytes([b"hello|"])


def test_a_raw_request_that_cannot_be_deduced_is_refused(client: Client) -> None:
    raw = {"Inference-Header-Content-Length": "0"}
    several = error(post(client, "all_types", b"abcd", raw), 400)
    assert re.search(
        r"Raw request must only have 1 input \(found 1\) to be deduced but got \d+ inputs in 'all_types' model", several
    )
    assert "Expected 4, got 7" in error(post(client, "identity", b"1234567", raw), 400)


# -- refusals -------------------------------------------------------------------------------------------------------------

IDENTITY = "identity"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"inputs": [', "failed to parse the request JSON buffer"),
        (b"", "failed to parse the request JSON buffer: The document is empty. at 0"),
        (b"[]", "expected an object, got array"),
        (b"\xff\xfe", "failed to parse the request JSON buffer"),
        ({}, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ({"inputs": {}}, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": [1]}, "Unable to parse 'inputs': attempt to access JSON non-object as object"),
        ({"inputs": [ONE], "outputs": {}}, "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        ({"inputs": [ONE], "id": 3}, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ({"inputs": [{"shape": [1]}]}, "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        ({"inputs": [{"name": "a", "datatype": "FP32"}]}, "Unable to parse 'shape': attempt to access non-existing"),
        ({"inputs": [{"name": "a", "shape": [1]}]}, "Unable to parse 'datatype': attempt to access non-existing"),
        ({"inputs": [entry("INPUT0", [1], "fp32", data=[1])]}, "invalid datatype for input INPUT0"),
        ({"inputs": [entry("INPUT0", [1], "FP32")]}, "But no field is set"),
        ({"inputs": [entry("INPUT0", [1], "FP32", data=[1], parameters={"binary_data_size": 4})]},
         "But set 'data' 'binary_data_size'"),
        ({"inputs": [entry("INPUT0", [1, 1], "FP32", data="abc")]}, "Unable to parse 'data': attempt to access JSON non-array"),
        ({"inputs": [entry("INPUT0", [1, 2], "FP32", data=["1", "2"])]}, "attempt to access JSON non-number as double"),
        ({"inputs": [entry("INPUT0", [1, 2], "FP32", data=[True, 1.5])]}, "attempt to access JSON non-number as double"),
        ({"inputs": [entry("INPUT0", [1, 2], "FP32", data=[None, 1.5])]}, "attempt to access JSON non-number as double"),
        ({"inputs": [entry("INPUT0", [1, 3], "FP32", data=[1, 2])]}, "Shape does not match true shape of 'data' field"),
        ({"inputs": [entry("INPUT0", [1, 2], "FP32", data=[[1], 2])]}, "arrays and values are mixed"),
        ({"inputs": [ONE], "parameters": []}, "Unable to parse 'parameters': attempt to access JSON non-object as object"),
        ({"inputs": [ONE], "parameters": {"priority": "high"}}, "Unable to parse 'priority'"),
        ({"inputs": [ONE], "parameters": {"timeout": -1}}, "Unable to parse 'timeout'"),
        ({"inputs": [ONE], "parameters": {"binary_data_output": 1}}, "attempt to access JSON non-boolean as boolean"),
        ({"inputs": [ONE], "parameters": {"x": None}}, "'x' has invalid type. It should be either 'int', 'bool', or 'string'."),
        ({"inputs": [ONE], "parameters": {"x": [1]}}, "parameter 'x' has invalid type"),
        (
            {"inputs": [{**ONE, "parameters": {"shared_memory_offset": "1"}}]},
            "Unable to parse 'shared_memory_offset': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (
            {"inputs": [ONE], "outputs": [{"name": "OUTPUT0", "parameters": {"shared_memory_byte_size": -1}}]},
            "Unable to parse 'shared_memory_byte_size': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        ({"inputs": [ONE], "parameters": {"triton_x": 1}}, "parameter keys starting with 'triton_' are reserved"),
        ({"inputs": [entry("WRONG", [1, 1], "FP32", data=[1])]}, "unexpected inference input 'WRONG' for model 'identity'"),
        ({"inputs": [ONE], "outputs": [{"name": "NOPE"}]}, "unexpected inference output 'NOPE' for model 'identity'"),
        ({"inputs": []}, "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'identity'."),
        ({"inputs": [ONE, ONE], "id": "7"}, "[request id: 7] input 'INPUT0' already exists in request"),
        ({"inputs": [entry("INPUT0", [9, 1], "FP32", data=[0] * 9)]},
         "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'identity'"),
    ],
)  # fmt: skip
def test_a_malformed_request_is_a_400_that_names_the_culprit(client: Client, body: Any, text: str) -> None:
    assert text in error(post(client, IDENTITY, body), 400)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("UINT8", [-1]), ("UINT8", [300]), ("INT8", [-129]), ("UINT64", [-1]), ("UINT64", [2**64]), ("INT64", [2**63]),
     ("INT32", [1.5]), ("INT32", [True]), ("INT32", ["1"]), ("BOOL", [1]), ("BYTES", [1]), ("BYTES", [None]),
     ("FP64", [10**400])],
)  # fmt: skip
def test_values_that_the_datatype_cannot_hold_are_refused(client: Client, datatype: str, data: list[Any]) -> None:
    error(post(client, "all_types", {"inputs": [entry(f"IN_{datatype}", [1], datatype, data=data)]}), 400)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_is_binary_only_in_both_directions(client: Client, datatype: str) -> None:
    reply = post(client, "all_types", {"inputs": [entry(f"IN_{datatype}", [1], datatype, data=[1.0])]})
    assert error(reply, 400).startswith(f"receiving {datatype} data via JSON is not supported.")
    body, headers = binary((entry(f"IN_{datatype}", [1], datatype), b"ab"))
    assert error(post(client, "all_types", body, headers), 400).startswith(
        f"sending {datatype} data via JSON is not supported."
    )


def test_strings_that_are_not_utf8_cannot_be_sent_as_json(client: Client) -> None:
    body, headers = binary((entry("IN_BYTES", [1], "BYTES"), pack_bytes([b"\xff"])))
    assert "output 'OUT_BYTES'" in error(post(client, "all_types", body, headers), 400)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ("99999", "inference header size should be in range (0, 12), got: 99999"),
        ("-1", "inference header size should be in range (0, 12), got: -1"),
        ("abc", "Unable to parse Inference-Header-Content-Length, got: abc"),
        ("5", "failed to parse the request JSON buffer"),
    ],
)
def test_a_wrong_header_length_is_refused(client: Client, length: str, text: str) -> None:
    assert text in error(post(client, IDENTITY, b'{"inputs":[]', {"Inference-Header-Content-Length": length}), 400)


def test_a_binary_part_that_is_too_short_or_too_long_is_refused(client: Client) -> None:
    body, headers = binary((entry("INPUT0", [1, 3], "FP32"), floats(1, 2, 3)))
    short = error(post(client, IDENTITY, body[:-4], headers), 400)
    assert short == "unexpected size for input 'INPUT0', expecting 4 additional bytes for model 'identity'"
    assert (
        error(post(client, IDENTITY, body + b"x", headers), 400) == "unexpected additional input data for model 'identity'"
    )


def test_a_byte_count_that_is_not_the_shapes_is_refused(client: Client) -> None:
    body, headers = binary((entry("INPUT0", [1, 3], "FP32"), floats(1, 2)), id="9")
    text = error(post(client, IDENTITY, body, headers), 400)
    assert text == "[request id: 9] input byte size mismatch for input 'INPUT0' for model 'identity'. Expected 12, got 8"


def test_unknown_models_and_versions_are_404(client: Client, dataplane: FakeDataPlane) -> None:
    body = {"inputs": [entry("INPUT0", [1], "FP32", data=[1])]}
    assert error(post(client, "nope", body), 404) == "Request for unknown model: 'nope' is not found"
    unserved = error(post(client, "versions/versions/2", body), 404)
    assert unserved == "Request for unknown model: 'versions' version 2 is not found"
    assert error(post(client, "versions/versions/abc", body), 404) == "Not Found"
    assert "integral value > 0" in error(post(client, "versions/versions/99999999999999999999", body), 400)
    dataplane.failures["broken"] = "RuntimeError: cannot start"
    assert error(post(client, "broken", body), 404) == "Request for unknown model: 'broken' has no available versions"
    not_ready = error(post(client, "broken/versions/1", body), 503)
    assert not_ready == "Request for unknown model: 'broken' version 1 is not at ready state"


def test_a_decoupled_model_needs_another_route(client: Client) -> None:
    text = error(post(client, "decoupled", b"not even JSON"), 501)
    assert text == "HTTP end point doesn't support models with decoupled transaction policy"


def test_a_models_own_error_keeps_its_code_and_text(client: Client) -> None:
    body = {"inputs": [entry("X", [1, 4], "FP32", data=[-1, 0, 0, 0])]}
    assert error(post(client, "scores", body), 400) == "value is negative"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (QueueFull("100 requests wait"), "[request id: 5] Exceeds maximum queue size"),
        (QueueTimeout("Request timeout expired"), "Request timeout expired"),
    ],
)
def test_overload_is_503(client: Client, dataplane: FakeDataPlane, problem: Exception, text: str) -> None:
    def refuse(request: object) -> None:
        raise problem

    dataplane.served["identity"]["1"].run = refuse  # type: ignore[assignment]
    answer = post(client, IDENTITY, {"id": "5", "inputs": [ONE]})
    assert error(answer, 503) == text and answer.headers["retry-after"] == "1"


def test_a_refusal_that_lasts_names_no_time_to_try_again(client: Client, dataplane: FakeDataPlane) -> None:
    def fail(request: object) -> None:
        raise ModelFailed("the model's own", "UNAVAILABLE")

    dataplane.served["identity"]["1"].run = fail  # type: ignore[assignment]
    answer = post(client, IDENTITY, {"inputs": [ONE]})
    assert error(answer, 503) and "retry-after" not in answer.headers


def test_a_full_queue_refuses_long_json_before_it_is_read(
    client: Client, dataplane: FakeDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: str, version: str | None) -> None:
        raise QueueFull("Exceeds maximum queue size")

    monkeypatch.setattr(dataplane, "refuse_if_full", refuse)
    assert error(post(client, IDENTITY, b" " * MAX_PARSED + b"not even JSON"), 503).endswith("Exceeds maximum queue size")
    assert "JSON" in error(post(client, IDENTITY, b"not even JSON"), 400)


def test_an_unforeseen_error_shows_nothing_of_the_inside(client: Client, dataplane: FakeDataPlane) -> None:
    def fail(request: object) -> None:
        raise ZeroDivisionError("secret")

    dataplane.served["identity"]["1"].run = fail  # type: ignore[assignment]
    assert "secret" not in error(post(client, IDENTITY, {"inputs": [ONE]}), 500)


def test_a_body_over_the_limit_is_413(client: Client) -> None:
    assert "max_request_size" in error(post(client, IDENTITY, b" " * (1 << 20) + b"{}"), 413)


# -- methods and paths ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "PROPFIND"])
def test_other_methods_are_405(client: Client, method: str) -> None:
    assert error(client.simulate_request(method, "/v2/models/identity/infer"), 405) == "Method Not Allowed"


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_a_refused_method_is_told_those_that_the_route_answers(client: Client) -> None:
    """RFC 9110, section 15.5.6. All routes are walked; what `Allow` names is answered, and nothing else is."""
    templates = [route.path for route in falcon.inspect.inspect_routes(client.app)]
    assert "/v2/models/{model}/infer" in templates and len(templates) > 30
    for template in templates:
        path = template.replace("{model}", "identity").replace("{version}", "1")
        answers = {method: client.simulate_request(method, path) for method in METHODS}
        refused = {method: answer for method, answer in answers.items() if answer.status_code == 405}
        allowed = set(answers) - set(refused)
        assert allowed and "PROPFIND" in refused, template
        for answer in refused.values():
            assert set(answer.headers["allow"].split(", ")) == allowed, template


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/models", "/v2/models/identity/infer/", "/v2/nope", "/v2/models/identity/nope"]
)
def test_other_paths_are_404(client: Client, path: str) -> None:
    assert error(client.simulate_get(path), 404) == "Not Found"


def test_other_prefixes_are_left_to_others(client: Client) -> None:
    assert client.simulate_get("/v2x").json != {"error": "Not Found"}


# -- the table of errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "status"), [(None, 404), ("1", 503)])
def test_why_a_model_is_not_ready_stands_in_a_header(
    client: Client, dataplane: FakeDataPlane, monkeypatch: pytest.MonkeyPatch, version: str | None, status: int
) -> None:
    def refuse(model: str, version: str | None = None) -> None:
        raise ModelNotReady(model, version, "no such\nweights: ä€")

    monkeypatch.setattr(dataplane, "config", refuse)
    path = "identity" if version is None else f"identity/versions/{version}"
    reply = post(client, path, {"inputs": [ONE]})
    assert "identity" in error(reply, status)
    assert reply.headers["x-jitney-reason"] == "no such weights: ä?"


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (ModelFailed("x", "NOT_FOUND"), 404, "x"),
        (ModelFailed("x", "UNAVAILABLE"), 503, "x"),
        (ModelFailed("x", "UNSUPPORTED"), 501, "x"),
        (ModelFailed("x", "ALREADY_EXISTS"), 400, "x"),
        (ModelFailed("x", "BAD_OUTPUT"), 500, "x"),
        (ModelFailed("x", "INTERNAL", status=422), 422, "x"),
        (ModelFailed("x").within("in ensemble 'e', "), 500, "in ensemble 'e', x"),
        (WorkerDied("worker 'm_0_0' died"), 500, "worker 'm_0_0' died"),
        (Cancelled("the client went away"), 400, "the client went away"),
        (NoWorkers("model 'm' has no workers"), 503, "model 'm' has no workers"),
    ],
)
def test_every_error_has_a_status(problem: JitneyError, status: int, text: str) -> None:
    assert describe(problem) == (status, text)
