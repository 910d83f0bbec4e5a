"""The archives of the recorded TorchServe, in HandlerBackend, against what TorchServe answered."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitney.tests.fakes.handler_runner import Outcome, body, json_body, run, unpack
from jitney.tests.fakes.recordings import OWN

KIT = OWN / "torchserve"


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Any]:
    def handle(name: str, *batches: list[dict[str, Any]], **spec: Any) -> Outcome:
        directory, entry, manifest = unpack(KIT / "mars" / f"{name}.mar", tmp_path / name)
        return run(directory, entry, list(batches), manifest=manifest, **spec)

    return handle


def golden(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((KIT / "golden").glob(pattern))]


def raw(request: dict[str, Any]) -> bytes:
    found = request.get("body") or {}
    if "b64" in found:
        return base64.b64decode(found["b64"])
    return json.dumps(found["json"]).encode() if "json" in found else found.get("text", "").encode()


def test_inspect_sees_requests_as_torchserve_showed_them(archive: Callable[..., Any]) -> None:
    """Rows, decoded values and headers of every recorded raw body."""
    records = [
        record
        for record in golden("main.*.in_*.json")
        if "multipart" not in (record["request"].get("body") or {}) and "form" not in record["name"]
    ]
    records = [record for record in records if record["response"]["status"] == 200 and not _is_form(record)]
    assert len(records) > 12
    batches = []
    for record in records:
        expected = record["response"]["body_json"]["headers"]
        headers = {name: value for name, value in expected.items() if isinstance(value, str)}
        batches.append([body(raw(record["request"]), expected["body"]["content-type"], **headers)])
    outcome = archive("inspect", *batches)
    for at, record in enumerate(records):
        assert outcome.bodies(at) == [record["response"]["body_json"]], record["name"]


def _is_form(record: dict[str, Any]) -> bool:
    return any("form" in value for name, value in record["request"].get("headers", []) if name.lower() == "content-type")


def test_types_are_serialised_as_recorded(archive: Callable[..., Any]) -> None:
    names = ["str", "bytes", "bytearray", "dict", "list", "int", "float", "nan", "bool", "none", "empty_str", "tuple"]
    outcome = archive(
        "types", [body(name, "text/plain") for name in names], [body("tensor"), body("int"), body("set"), body("str")]
    )
    found = {name: response["body"] for name, response in zip(names, outcome.batches[0], strict=True)}
    assert found["str"] == "café".encode()
    assert (found["bytes"], found["bytearray"], found["empty_str"]) == (b"\x00\x01\xff", b"ab", b"")
    assert found["dict"] == b'{\n  "a": 1,\n  "b": [\n    1.5,\n    null,\n    true\n  ],\n  "\\u00e9": "\\u00e9"\n}'
    assert (found["nan"], found["none"], found["bool"], found["float"]) == (b"NaN", b"null", b"true", b"0.3333333333333333")
    assert found["tuple"] == found["list"] == b"[\n  1,\n  2\n]"
    tensor, number, bad, text = outcome.batches[1]
    assert tensor["body"][:2] == b"PK"  # torch.save's zip
    assert number["body"] == b"7"
    assert bad["error"]["message"] == "Unsupported model output data type."
    assert bad["error"]["code"] == "BAD_OUTPUT"
    assert text["error"] is None  # TorchServe fails the whole batch here


def test_echo_counts_the_batch(archive: Callable[..., Any]) -> None:
    assert archive("echo_batch", [body("x")] * 3).bodies() == [{"batch_size": 3, "index": i} for i in range(3)]
    assert archive("echo_batch_v2", [body("x")]).bodies() == [{"batch_size": 1, "index": 0, "version": "2.0"}]


def test_module_level_handle(archive: Callable[..., Any]) -> None:
    outcome = archive("noop", [body("12345"), body("abc", name="data"), json_body([1])])
    assert outcome.bodies() == [{"length": 5}, {"length": 3}, {"length": -1}]


def test_failures_and_their_codes(archive: Callable[..., Any]) -> None:
    outcome = archive("boom", *[[body(text)] for text in ("boom", "memory", "cuda-oom", "predexc", "fine")])
    errors = [batch[0]["error"] for batch in outcome.batches]
    assert [(e["message"], e["code"], e["status"], e["by_model"]) for e in errors[:4]] == [
        ("Prediction failed", "INTERNAL", 0, False),
        ("Out of resources", "OUT_OF_MEMORY", 0, False),
        ("Out of resources", "OUT_OF_MEMORY", 0, False),
        ("custom prediction error", "INTERNAL", 422, True),
    ]
    assert "ValueError: boom in body" in errors[0]["detail"]
    assert outcome.bodies(4) == [b"ok"]


def test_one_bad_request_fails_alone(archive: Callable[..., Any]) -> None:
    outcome = archive("boom", [body("a"), body("boom"), body("b"), body("predexc")])
    assert outcome.bodies() == [b"ok", "Prediction failed", b"ok", "custom prediction error"]


def test_the_retry_can_be_switched_off(archive: Callable[..., Any]) -> None:
    outcome = archive("boom", [body("a"), body("boom")], yaml={"handler": {"retry_failed_batch": False}})
    assert outcome.bodies() == ["Prediction failed"] * 2


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("extra", "number of batch response mismatched"),
        ("empty", "number of batch response mismatched"),
        ("dict", "Invalid model predict output"),
        ("none", "Invalid model predict output"),
        ("tuple", "Invalid model predict output"),
    ],
)
def test_wrong_results(archive: Callable[..., Any], mode: str, message: str) -> None:
    outcome = archive("wrong_length", [json_body({"mode": mode}), body("x")])
    assert outcome.bodies() == [message] * 2
    assert {response["error"]["code"] for response in outcome.batches[0]} == {"BAD_OUTPUT"}


def test_status_headers_and_content_type_per_request(archive: Callable[..., Any]) -> None:
    asked = [
        {"status": 201, "phrase": "Made", "headers": {"x-a": "b"}, "content_type": "text/plain", "body": "made"},
        {},
        {"status": 404, "body": {"a": 1}},
    ]
    made, plain, missing = archive("response_ctl", [json_body(spec) for spec in asked]).batches[0]
    assert (made["status"], made["reason"], made["body"]) == (201, "Made", b"made")
    assert made["headers"] == {"x-a": "b", "content-type": "text/plain"}
    assert (plain["status"], plain["reason"], plain["headers"], plain["body"]) == (200, "", {}, b"done")
    assert (missing["status"], missing["reason"], missing["body"]) == (404, "", b'{\n  "a": 1\n}')


def test_all_status(archive: Callable[..., Any]) -> None:
    responses = archive("response_ctl", [json_body({"all_status": 202}), json_body({})]).batches[0]
    assert [(response["status"], response["reason"]) for response in responses] == [(202, "All Set")] * 2


def test_stream(archive: Callable[..., Any]) -> None:
    responses = archive("stream", [body("x"), body("y")]).batches[0]
    for index in (0, 1):
        mine = [response for response in responses if response["index"] == index]
        assert [response["body"] for response in mine] == [b"part0 ", b"part1 ", b"part2 ", b"last"]
        assert [response["final"] for response in mine] == [False, False, False, True]
        assert [response["headers"]["ts_stream_next"] for response in mine] == ["true", "true", "true", "false"]


def test_yaml_reaches_the_handler(archive: Callable[..., Any]) -> None:
    """As it stands in the archive's file; what a message from the server says of it may be less."""
    (found,) = archive("yamlcfg", [body("x")], yaml={"batchSize": 4}).bodies()
    assert found == {
        "batch_size": 1,
        "yaml": {
            "minWorkers": 1, "maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 77, "responseTimeout": 33, "startupTimeout": 44,
            "jobQueueSize": 5, "maxRetryTimeoutInSec": 60, "clientTimeoutInMills": 0, "handler": {"answer": 42},
        },
    }  # fmt: skip


def test_digits_archive_on_an_image(archive: Callable[..., Any]) -> None:
    image = (KIT / "inputs/digit3.png").read_bytes()
    outcome = archive("digits", [body(image), body(image, name="data"), json_body({"pixels": [0.0] * 784})])
    first, second, zeros = outcome.bodies()
    assert first == second != zeros
    assert len(first["scores"]) == 10
    assert sum(first["scores"]) == pytest.approx(1, abs=1e-3)
    assert {metric["name"] for metric in outcome.metrics} == {"HandlerTime", "PredictionTime"}


def test_describe_explain_and_predict(archive: Callable[..., Any]) -> None:
    outcome = archive(
        "described",
        [{"parts": [], "headers": {"describe": "True"}}],
        [body("x", explain="True"), body("x", explain="False"), body("x", explain="True")],
    )
    assert outcome.bodies(0) == [{"data1": "1", "data2": 2}]
    assert outcome.bodies(1) == [{"explained": True}, {"explained": False}, {"explained": True}]


def test_kserve_envelope_as_recorded(archive: Callable[..., Any]) -> None:
    outcome = archive("echo_batch", *[[_recorded(record)] for record in golden("kserve.00[2-6]*.json")], envelope="kserve")
    for at, record in enumerate(golden("kserve.00[2-6]*.json")):
        expected = record["response"]["body_json"]
        assert outcome.bodies(at) == [expected.get("message", expected)], record["name"]


def test_kserve_explanations_as_recorded(archive: Callable[..., Any]) -> None:
    (record,) = golden("kserve.007*.json")
    outcome = archive("described", [json_body(record["request"]["body"]["json"], explain="True")], envelope="kserve")
    assert outcome.batches[0][0]["body"].decode() == record["response"]["body_text"]


def test_kserve_batches_are_answered_one_by_one(archive: Callable[..., Any]) -> None:
    outcome = archive("echo_batch", [json_body({"instances": [1, 2]}), json_body({"instances": [3]})], envelope="kserve")
    assert [len(answer["predictions"]) for answer in outcome.bodies()] == [2, 1]


def _recorded(record: dict[str, Any]) -> dict[str, Any]:
    types = [value for name, value in record["request"].get("headers", []) if name.lower() == "content-type"]
    return body(raw(record["request"]), types[0] if types else "")


def test_custom_metrics(archive: Callable[..., Any]) -> None:
    outcome = archive("custom_metrics", [body("x"), body("y")])
    own = {metric["name"]: metric for metric in outcome.metrics if metric["name"].startswith("my_")}
    assert {name: (metric["value"], metric["unit"], metric["type"]) for name, metric in own.items()} == {
        "my_counter": (2.0, "Count", "COUNTER"),
        "my_gauge": (3.5, "Milliseconds", "COUNTER"),  # add_metric counts where no type is given
        "my_time": (12.5, "Milliseconds", "GAUGE"),
        "my_percent": (50.0, "Percent", "GAUGE"),
        "my_size": (2.0, "Megabytes", "GAUGE"),
    }
    assert own["my_time"]["dimensions"] == {"ModelName": "handled", "Level": "Model"}
    assert own["my_time"]["request_ids"] == ["id-0", "id-1"]
    assert {metric["kind"] for metric in outcome.metrics} == {"metric"}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("badinit", "RuntimeError: cannot initialize this model"),
        ("badinit_value", "ValueError: bad value in initialize"),
        ("badimport", "ModuleNotFoundError: No module named 'a_module_that_does_not_exist_anywhere'"),
    ],
)
def test_failing_loads_say_why(archive: Callable[..., Any], name: str, error: str) -> None:
    assert archive(name).error == error
