"""The generate extension: flat JSON in, one object or events out."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

import falcon.testing
import numpy as np
import pytest

from jitney.core.errors import Cancelled
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.http.kserve.documents import dump
from jitney.server.http.kserve.generate import render
from jitney.tests.fakes.dataplane import FakeDataPlane

Client = falcon.testing.TestClient


def generate(client: Client, model: str, document: Any, verb: str = "generate") -> falcon.testing.Result:
    return client.simulate_post(f"/v2/models/{model}/{verb}", body=json.dumps(document))


def test_keys_named_like_inputs_are_tensors_and_others_parameters(client: Client) -> None:
    reply = generate(
        client, "textgen", {"text_input": "hello", "temperature": 0.5, "parameters": {"stream": False}, "id": "7"}
    )
    assert reply.text == (
        '{"id":"7","model_name":"textgen","model_version":"1","text_output":"hello|id=7,stream=False,temperature=0.5"}'
    )


def test_a_single_value_that_json_lacks_is_a_scalar_too() -> None:
    odd = {"inf": -np.inf, "nan": np.nan, "plain": 0.5}
    tensors = [Tensor.from_numpy(name, np.array([value], np.float32)) for name, value in odd.items()]
    made = render(ModelConfig(name="m", version="1", backend="python"), Request(), Response(tensors))
    assert dump(made) == b'{"inf":-Infinity,"model_name":"m","model_version":"1","nan":NaN,"plain":0.5}'


@pytest.mark.parametrize("value", ["a", ["a"], [["a"]]])
def test_scalars_and_lists_are_taken(client: Client, value: Any) -> None:
    assert generate(client, "textgen/versions/1", {"text_input": value}).json["text_output"] == "a|"


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_inputs_may_stand_inside_of_parameters(client: Client, dataplane: FakeDataPlane, verb: str) -> None:
    inside = {"IN_INT32": 7, "IN_BOOL": True, "IN_BYTES": ["x", "y"], "seed": 4, "temperature": 0.5}
    reply = generate(client, "all_types", {"IN_FP32": [1, 2], "parameters": inside, "top_k": 3}, verb)
    assert reply.status_code == 200, reply.text
    request = dataplane.calls[-1].request
    assert {tensor.name: tensor.numpy().tolist() for tensor in request.tensors} == {
        "IN_FP32": [1.0, 2.0],
        "IN_INT32": [7],
        "IN_BOOL": [True],
        "IN_BYTES": [b"x", b"y"],
    }
    assert request.parameters == {"seed": 4, "temperature": 0.5, "top_k": 3}


@pytest.mark.parametrize("value", ["7", 7.5, True, None, {}])
def test_an_input_inside_of_parameters_has_its_datatype(client: Client, value: Any) -> None:
    reply = generate(client, "all_types", {"parameters": {"IN_INT32": value}})
    assert (reply.status_code, "'IN_INT32'" in reply.json["error"]) == (400, True)


def test_a_list_for_fixed_dims_is_a_batch(client: Client) -> None:
    assert generate(client, "scores", {"X": [1, 2, 3, 4]}).json["SCORES"] == [1, 2, 3, 4]
    assert generate(client, "scores", {"X": [1, 2, 3, 4] * 2}).json["SCORES"] == [1, 2, 3, 4] * 2
    for wrong in ([1, 2, 3], 1):
        assert (
            "can not convert input 'X' to tensor with proper shape" in generate(client, "scores", {"X": wrong}).json["error"]
        )
    wide = generate(client, "scores", {"X": [1, 2, 3, 4] * 5})
    assert (wide.status_code, "batch-size must be <= 4" in wide.json["error"]) == (400, True)


def test_an_input_called_parameters_cannot_be_told_from_the_keyword(client: Client, dataplane: FakeDataPlane) -> None:
    spec = TensorSpec("parameters", "BYTES", (1,))
    dataplane.add(ModelConfig("odd", "1", "python", inputs=(spec,), config_json={"name": "odd"}), None)
    reply = generate(client, "odd", {"parameters": "a"})
    assert reply.status_code == 400
    assert reply.json == {"error": "Keyword 'parameters' for nested schema also given as input tensor name"}


def test_variable_dimensions_follow_the_data(client: Client) -> None:
    assert generate(client, "identity", {"INPUT0": [1, 2.5]}).json["OUTPUT0"] == [1.0, 2.5]
    assert generate(client, "identity", {"INPUT0": 3}).json["OUTPUT0"] == 3.0


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"text_input": "a", "q": [1]}, "parameter 'q' has invalid type."),
        ({"text_input": 3}, "attempt to access JSON non-string as string"),
        ({"text_input": {"a": 1}}, "attempt to access JSON non-string as string"),
        ({"text_input": None}, "attempt to access JSON non-string as string"),
        ({"text_input": [["a"], "b"]}, "mixed at one level"),
        ({"text_input": "a", "q": None}, "parameter 'q' has invalid type."),
        ({"text_input": "a", "parameters": {"q": {}}}, "Converting keyword: 'parameters': parameter 'q' has invalid type."),
        ({"text_input": "a", "parameters": {"parameters": {}}}, "parameter 'parameters' has invalid type."),
        ({"text_input": "a", "parameters": {"text_input": "b"}}, "input 'text_input' already exists in request"),
        ({"text_input": "a", "q": 1, "parameters": {"q": 1}}, "parameter 'q' already exists in request"),
        ({"parameters": {"text_input": 3}}, "Converting keyword: 'parameters': "),
        ({}, "expected 1 inputs but got 0 inputs"),
        ({"text_input": "a", "parameters": 3}, "Expected JSON object for keyword: 'parameters'"),
        ({"text_input": "a", "parameters": [1]}, "Expected JSON object for keyword: 'parameters'"),
        ({"text_input": "a", "parameters": None}, "Expected JSON object for keyword: 'parameters'"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_what_cannot_be_understood_is_400(client: Client, document: Any, text: str, verb: str) -> None:
    reply = generate(client, "textgen", document, verb)
    assert reply.status_code == 400
    assert text in reply.json["error"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"text_input": "a", "text_input": "b"}', "input 'text_input' already exists in request"),
        ('{"text_input": "a", "q": 1, "q": 1}', "parameter 'q' already exists in request"),
        ('{"text_input": "a", "parameters": {"q": 1, "q": 2}}', "parameter 'q' already exists in request"),
        (
            '{"text_input": "a", ' + ", ".join(f'"p{n}": {n}' for n in range(40)) + ', "p7": 7}',
            "parameter 'p7' already exists",
        ),
        ('{"text_input": "a", "text_input": ' + "[" * 900 + "]" * 900 + "}", "already exists|nesting depth"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_a_name_that_comes_twice_is_refused(client: Client, body: str, text: str, verb: str) -> None:
    reply = client.simulate_post(f"/v2/models/textgen/{verb}", body=body)
    assert reply.status_code == 400
    assert re.search(text, reply.json["error"])


def test_a_name_may_stand_in_a_text_too(client: Client) -> None:
    document = {"text_input": 'say "text_input", "q" and "q"', "q": 1234567890123}
    assert generate(client, "textgen", document).status_code == 200


def test_refusals_before_the_body_is_read(client: Client) -> None:
    assert generate(client, "nope", {}).status_code == 404
    assert client.simulate_get("/v2/models/textgen/generate").status_code == 405
    reply = client.simulate_post("/v2/models/textgen/generate", body=b"", headers={"Content-Encoding": "gzip"})
    assert (reply.status_code, reply.json) == (501, {"error": "Unsupported content-encoding, only 'identity' is supported."})
    empty = client.simulate_post("/v2/models/textgen/generate", body=b"")
    assert (empty.status_code, "document is empty" in empty.json["error"]) == (400, True)


def test_a_models_error_keeps_its_code(client: Client) -> None:
    reply = generate(client, "scores", {"X": [-1, 0, 0, 0]})
    assert (reply.status_code, reply.json) == (400, {"error": "value is negative"})


@pytest.mark.parametrize(("wanted", "single"), [(1, True), (0, False), (3, False)])
def test_generate_needs_exactly_one_response(client: Client, wanted: int, single: bool) -> None:
    reply = generate(client, "decoupled", {"N": wanted})
    assert reply.status_code == 200
    assert (reply.json.get("OUT") == 0) is single
    assert ("exactly 1 response" in reply.json.get("error", "")) is not single


def events(text: str) -> list[Any]:
    assert text == "" or text.endswith("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]


def test_a_stream_has_an_event_for_each_response(client: Client) -> None:
    reply = generate(client, "decoupled", {"N": 3, "id": "a"}, "generate_stream")
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events(reply.text) == [{"id": "a", "model_name": "decoupled", "model_version": "1", "OUT": n} for n in range(3)]
    assert [event["OUT"] for event in events(generate(client, "decoupled", {"N": 1}, "generate_stream").text)] == [0]
    assert events(generate(client, "textgen", {"text_input": "a"}, "generate_stream").text)[0]["text_output"] == "a|"


def test_no_response_is_an_empty_stream(client: Client) -> None:
    reply = generate(client, "decoupled", {"N": 0}, "generate_stream")
    assert (reply.status_code, reply.content) == (200, b"")


def test_the_first_response_decides_the_status_and_later_errors_are_events(client: Client) -> None:
    first = generate(client, "decoupled", {"N": -1}, "generate_stream")
    assert (first.status_code, events(first.text)) == (400, [{"error": "negative count"}])
    later = generate(client, "decoupled", {"N": -2}, "generate_stream")
    assert later.status_code == 200
    assert [event.get("error", event.get("OUT")) for event in events(later.text)] == [0, "negative count"]


def test_a_stream_goes_on_after_an_error_that_the_model_sends(client: Client) -> None:
    reply = generate(client, "decoupled", {"N": -3}, "generate_stream")
    assert reply.status_code == 200
    assert [event.get("error", event.get("OUT")) for event in events(reply.text)] == [0, "not this one", 2]
    assert "exactly 1 response" in generate(client, "decoupled", {"N": -3}).json["error"]
    for verb in ("generate", "generate_stream"):
        lone = generate(client, "decoupled", {"N": -4}, verb)
        assert (lone.status_code, lone.text.count("not this one")) == (503, 1)


def test_a_response_without_outputs_is_a_response(client: Client) -> None:
    shown = {"model_name": "decoupled", "model_version": "1", "p": 1}
    assert generate(client, "decoupled", {"N": -5}).json == shown
    assert events(generate(client, "decoupled", {"N": -5}, "generate_stream").text) == [shown]


def test_events_arrive_over_a_socket_as_chunks(server: str) -> None:
    connection = http.client.HTTPConnection(server, timeout=10)
    connection.request("POST", "/v2/models/decoupled/generate_stream", body=json.dumps({"N": 100}))
    reply = connection.getresponse()
    assert reply.getheader("Transfer-Encoding") == "chunked"
    assert [event["OUT"] for event in events(reply.read().decode())] == list(range(100))
    connection.close()


def test_closing_a_stream_early_withdraws_the_call(client: Client, dataplane: FakeDataPlane) -> None:
    from jitney.core.request import Response

    def endless(request: object) -> list[Response]:
        return [Response(final=False)]  # and nothing more

    dataplane.served["decoupled"]["1"].run = endless
    reply = client.simulate_post(
        "/v2/models/decoupled/generate_stream",
        body=json.dumps({"N": 1}),
        extras={"jitney.on_disconnect": lambda callback: callback()},
    )
    assert events(reply.text)[-1] == {"error": "the client went away"}
    assert isinstance(dataplane.calls[-1].error, Cancelled)
