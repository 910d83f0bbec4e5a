"""What replays the recordings notices what is different, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jitney.tests.conformance.replay.torchserve import compare as torchserve
from jitney.tests.conformance.replay.torchserve.documents import metric_differences
from jitney.tests.conformance.replay.torchserve.steps import parse_properties
from jitney.tests.conformance.replay.triton.burst_cases import CASES
from jitney.tests.conformance.replay.triton.compare import replies
from jitney.tests.conformance.replay.triton.reply import Reply

ID = "12345678-1234-1234-1234-123456789abc"
ANSWER: dict[str, Any] = {
    "status": 200,
    "headers": [["x-request-id", ID], ["content-length", "9"]],
    "body_json": {"a": [1, 2.0]},
    "server_closed": False,
    "elapsed_ms": 5.0,
}
INFERENCE = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"headers": [*ANSWER["headers"], ["date", "now"]], "elapsed_ms": 9.0}, ""),
        ({"body_json": {"a": [1, 2.00001]}}, ""),
        ({"status": 404}, "status 404, wanted 200"),
        ({"headers": ANSWER["headers"][:1]}, "header content-length is missing"),
        (
            {"headers": [*ANSWER["headers"], ["Content-Type", "text/plain"]]},
            "header content-type: ['text/plain'], wanted none",
        ),
        ({"headers": [["x-request-id", "7"], ["content-length", "9"]]}, "is no UUID"),
        ({"body_json": {"a": [1, 2.1]}}, "$.a[1]: 2.1, wanted 2.0"),
        ({"body_json": {"a": [1]}}, "$.a: 1 elements, wanted 2"),
        ({"body_json": {"a": ["1", 2.0]}}, "$.a[0]: type string, wanted number"),
        ({"body_json": {"a": [1, 2.0], "b": 1}}, "$: extra key 'b'"),
        ({"body_json": {}}, "$: key 'a' is missing"),
        ({"server_closed": True}, "server_closed True, wanted False"),
        ({"interim": [100]}, "interim [100], wanted []"),
        ({"elapsed_ms": 200.0}, "took 200 ms, wanted 0..100"),
    ],
)
def test_differences_from_torchserve_are_told(changes: dict[str, Any], told: str) -> None:
    record = {"response": ANSWER, "compare": {"elapsed_ms": [0, 100]}}
    found = torchserve.differences(record, {"response": ANSWER | changes})
    assert (len(found), told in " ".join(found)) == (bool(told), True)


def test_an_answer_where_torchserve_gave_none_is_told() -> None:
    record = {"response": {"status": None, "timed_out": True}}
    assert torchserve.differences(record, {"response": ANSWER}) == ["got status 200, wanted no response (timeout)"]
    assert torchserve.differences(record, {"response": {"status": None}}) == []


def test_metrics_are_compared_by_families_and_labels() -> None:
    wanted = '# TYPE a counter\na{model_name="m",} 1.0\n'
    assert list(metric_differences(wanted, '# TYPE a counter\na{model_name="m"} 7\n# TYPE b gauge\n')) == []
    assert list(metric_differences(wanted, "")) == ["metric family a is missing"]
    assert list(metric_differences(wanted, '# TYPE a gauge\na{model_name="m"} 1\n'))
    assert list(metric_differences(wanted, '# TYPE a counter\na{model_name="n"} 1\n'))


def test_properties_are_read_as_java_writes_them() -> None:
    text = "#Sat\na=1\nb.c=x\\:\\u00e9\\n\nlong=one\\\n  two\n"
    assert parse_properties(text) == {"a": "1", "b.c": "x:é\n", "long": "onetwo"}


def _reply(document: object, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"content-type": "application/json", **named}, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("got", "told"),
    [
        (_reply(INFERENCE), ""),
        (_reply(INFERENCE, content_type="application/json; charset=utf-8"), ""),
        (_reply(INFERENCE, content_type="text/plain"), "Content-Type 'text/plain' instead of 'application/json'"),
        (_reply(INFERENCE, 503), "status 503 instead of 200"),
        (_reply({"outputs": []}), ".outputs has 0 elements instead of 1"),
        (_reply({"outputs": [{**INFERENCE["outputs"][0], "data": [1.1]}]}), ".data[0] is 1.1 instead of 1.0"),
        (_reply(INFERENCE, inference_header_content_length="9"), "inference-header-content-length 9 instead of None"),
        (Reply(200, {"content-type": "application/json", "content-encoding": "gzip"}, b"plain"), "body is not gzip"),
    ],
)
def test_differences_from_triton_are_told(got: Reply, told: str) -> None:
    assert told in " ".join(replies(_reply(INFERENCE), got))
    assert bool(told) == bool(list(replies(_reply(INFERENCE), got)))


def test_an_error_needs_its_form_and_not_its_text() -> None:
    recorded = _reply({"error": "no such model"}, 404)
    assert list(replies(recorded, _reply({"error": "there is none"}, 404))) == []
    assert list(replies(recorded, _reply({"message": "no such model"}, 404)))


def test_a_burst_has_its_batches_or_not() -> None:
    cases = {case.name: case for case in CASES}
    assert cases["static_preferred"].has_batches([2, 6]) and not cases["static_preferred"].has_batches([8])
    backlog = cases["no_delay_backlog"]
    assert backlog.has_batches([4, 8, 8, 8]) and backlog.has_batches([2, 2, 8, 8, 8])
    assert not backlog.has_batches([8, 8, 8]) and not backlog.has_batches([4, 4, 4, 8, 8])
