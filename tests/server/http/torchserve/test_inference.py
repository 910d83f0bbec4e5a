"""TorchServe's inference routes over HTTP: paths, methods, what models get, what clients get."""

import json
import re
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from jitney.core.errors import (
    Draining,
    JitneyError,
    ModelFailed,
    ModelNotReady,
    NoWorkers,
    QueueFull,
    QueueTimeout,
    Unavailable,
    WorkerDied,
    WorkerTimeout,
)
from jitney.core.request import Failure, Request, Response
from jitney.tests.fakes.raw_http import Answer, Connection

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BIN = {"Content_Type": "application/octet-stream"}


def error(answer: Answer) -> tuple[int, str, str]:
    document = json.loads(answer.body)
    assert list(document) == ["code", "type", "message"] and document["code"] == answer.status
    assert answer.body == json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    return answer.status, document["type"], document["message"]


def seen(site: Any) -> Request:
    request: Request = site.plane.calls[-1].request
    return request


def fields(site: Any) -> list[tuple[str, bytes, str]]:
    return [(part.name, bytes(part.data), part.content_type) for part in seen(site).parts]


# -- the envelope --------------------------------------------------------------------------------------------------------


def test_a_prediction_is_sent_bare_in_torchserve_s_envelope(site: Any) -> None:
    answer = site.ask("inference", "POST", "/predictions/echo", b"raw", **BIN)
    assert (answer.status, answer.reason, answer.body) == (200, "", b"raw")
    assert answer.header("content-type") is None
    assert UUID.fullmatch(answer.header("x-request-id") or "")
    assert seen(site).id == answer.header("x-request-id")
    headers = dict(answer.headers)
    assert headers["Pragma"] == "no-cache" and headers["Expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert headers["Cache-Control"] == "no-cache; no-store, must-revalidate, private"
    assert headers["connection"] == "keep-alive" and headers["content-length"] == "3"


def test_ping_is_pretty_json(site: Any) -> None:
    answer = site.ask("inference", "GET", "/ping")
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b'{\n  "status": "Healthy"\n}\n')
    assert answer.header("content-type") == "application/json"
    site.plane.is_healthy = False
    answer = site.ask("inference", "GET", "/ping")
    assert (answer.status, answer.body) == (500, b'{\n  "status": "Unhealthy"\n}\n')


def test_an_error_closes_the_connection(site: Any) -> None:
    with Connection(site.address("inference")) as connection:
        connection.send(b"GET /predictions/nosuch HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.read()
        assert answer.header("connection") == "close" and connection.closed()
    assert error(answer) == (404, "ModelNotFoundException", "Model not found: nosuch")


# -- routes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "BREW"])
@pytest.mark.parametrize(
    "path", ["/predictions/echo", "/predictions/echo/", "/predictions/echo/1.0", "/predictions/ec%68o?a=b"]
)
def test_any_method_predicts(site: Any, method: str, path: str) -> None:
    assert site.ask("inference", method, path, b"x").body == b"x"


@pytest.mark.parametrize("path", ["/predictions/echo", "/ping"])
def test_head_has_the_length_and_no_body(site: Any, path: str) -> None:
    answer = site.ask("inference", "HEAD", path, b"abc")
    assert answer.status == 200 and int(answer.header("content-length") or 0) > 0 and answer.body == b""


@pytest.mark.parametrize("path", ["/ping", "/ping/", "/ping/extra", "/ping?x=1"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
def test_any_method_pings(site: Any, method: str, path: str) -> None:
    assert site.ask("inference", method, path).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/PING",
        "/nope",
        "/a/b/c/d/e/f",
        "/predictions",
        "/predictions/",
        "/models",
        "/models/echo/other",
        "/v1/models/echo/x",
    ],
)
def test_unknown_paths_are_404(site: Any, path: str) -> None:
    expected = (404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document.")
    assert error(site.ask("inference", "GET", path)) == expected


@pytest.mark.parametrize("path", ["/", "//"])
def test_the_root_only_describes(site: Any, path: str) -> None:
    text = "Requested method is not allowed, please refer to API document."
    assert error(site.ask("inference", "GET", path)) == (405, "MethodNotAllowedException", text)
    assert site.ask("inference", "OPTIONS", path).status == 200


def test_versions_and_names_that_do_not_exist(site: Any) -> None:
    found = error(site.ask("inference", "POST", "/predictions/echo/9.9", b"x"))
    assert found == (404, "ModelVersionNotFoundException", "Model version: 9.9 does not exist for model: echo")
    assert error(site.ask("inference", "POST", "/predictions//echo"))[2] == "Model not found: "


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/predictions/echo", {"url_path": "", "explain": "False"}),
        ("/predictions/echo/1.0/a/b%20c", {"url_path": "a/b c", "explain": "False"}),
        ("/explanations/echo", {"url_path": "", "explain": "True"}),
        ("/explanations/echo/1.0", {"url_path": "", "explain": "True"}),
        ("/v1/models/echo:predict", {"explain": "False"}),
        ("/v1/models/echo:explain", {"explain": "True"}),
        ("/v2/models/echo/infer", {"explain": "False"}),
        ("/v2/models/echo/explain", {"explain": "True"}),
        ("/echo/predict", {}),
        ("/echo/1.0/predict", {}),
        ("/models/echo/invoke", {}),
    ],
)
def test_each_way_to_a_model(site: Any, path: str, extra: dict[str, str]) -> None:
    assert site.ask("inference", "POST", path, b"x", **BIN).body == b"x"
    assert seen(site).headers == {"Host": "test", "Content-Length": "1", "Content-Type": BIN["Content_Type"], **extra}


def test_invocations_have_no_headers_of_their_own(site: Any) -> None:
    site.ask("inference", "POST", "/invocations?model_name=echo", b"x", **BIN)
    assert set(seen(site).headers) == {"Host", "Content-Length", "Content-Type"}
    assert fields(site) == [("model_name", b"echo", ""), ("body", b"x", BIN["Content_Type"])]


def test_the_query_is_an_input_on_the_old_paths_only(site: Any) -> None:
    site.ask("inference", "GET", "/predictions/echo?a=1&b=two")
    assert fields(site) == [("body", b"", "")]
    site.ask("inference", "GET", "/echo/predict?a=1&b=t%20o&a=3")
    assert fields(site) == [("a", b"1", ""), ("b", b"t o", ""), ("a", b"3", ""), ("body", b"", "")]


@pytest.mark.parametrize("path", ["/echo/predict?a=1&b=2", "/echo/1.0/predict?a=1&b=2", "/models/echo/invoke?a=1&b=2"])
def test_the_query_s_inputs_come_before_the_body_s(site: Any, path: str) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    site.ask("inference", "POST", path, b"zz=3&a=4", **form)
    assert fields(site) == [("a", b"1", ""), ("b", b"2", ""), ("zz", b"3", ""), ("a", b"4", "")]
    site.ask("inference", "POST", "/invocations?b=2&model_name=echo", b"zz=3", **form)
    assert [name for name, *_ in fields(site)] == ["b", "model_name", "zz"]


def test_invocations_of_a_model_that_goes_at_this_moment_are_answered(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.plane, "models", lambda: [("gone", "gone.mar")])
    found = site.ask("inference", "POST", "/invocations", b"x", **BIN)
    assert found.status == 404 and b"gone" in found.body


def test_invocations_find_their_model(site: Any) -> None:
    expected = (400, "BadRequestException", "Parameter model_name is required.")
    assert error(site.ask("inference", "POST", "/invocations", b"x", **BIN)) == expected
    form = site.ask(
        "inference", "POST", "/invocations", b"model_name=echo&x=1", Content_Type="application/x-www-form-urlencoded"
    )
    assert form.status == 200
    site.plane.add("started", lambda _: [Response(body=b"the only one")], loaded_at_startup=True)
    assert site.ask("inference", "POST", "/invocations", b"x").body == b"the only one"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/predictions/%zz", "invalid hex byte 'zz' at index 14 of '/predictions/%zz'"),
        ("/predictions/echo%2", "unterminated escape sequence at index 17 of: /predictions/echo%2"),
        ("/predictions/%zz?a=b", "invalid hex byte 'zz' at index 14 of '/predictions/%zz?a=b'"),
        ("/models/echo/invoke?a=%zz", "invalid hex byte 'zz' at index 23 of '/models/echo/invoke?a=%zz'"),
        ("/models/echo/invoke?a=%2&b=c", "unterminated escape sequence at index 22 of: /models/echo/invoke?a=%2&b=c"),
    ],
)
def test_bad_escapes_are_403(site: Any, path: str, text: str) -> None:
    assert error(site.ask("inference", "GET", path)) == (403, "IllegalArgumentException", text)


def test_a_query_that_nobody_reads_may_hold_anything(site: Any) -> None:
    unread = (
        "/predictions/echo?a=%zz",
        "/explanations/echo?%",
        "/ping?100%",
        "/v1/models/echo:predict?%",
        "/api-description?%",
    )
    for path in unread:
        assert site.ask("inference", "GET", path).status == 200, path
    assert error(site.ask("inference", "GET", "/nothing?a=%zz"))[:2] == (404, "ResourceNotFoundException")
    assert error(site.ask("management", "DELETE", "/models/nope?a=%zz"))[:2] == (404, "ModelNotFoundException")
    assert site.ask("management", "GET", "/models/echo?a=%zz").status == 403


def test_malformed_http_is_answered_in_torchserve_s_form(site: Any) -> None:
    with Connection(site.address("inference")) as connection:
        connection.send(b"garbage\r\n\r\n")
        assert error(connection.read()) == (400, "BadRequestException", "Invalid HTTP message.")


def test_a_body_over_max_request_size_is_a_bare_413(open_site: Any) -> None:
    site = open_site(max_request_size=1000)
    assert site.ask("inference", "POST", "/predictions/echo", b"x" * 1000).status == 200
    answer = site.ask("inference", "POST", "/predictions/echo", b"x" * 1001)
    assert (answer.status, answer.reason, answer.body) == (413, "Request Entity Too Large", b"")
    assert {name for name, _ in answer.headers} == {"content-length", "date"}
    assert site.ask("management", "POST", "/models", b" " * 1001).status == 413


# -- bodies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/octet-stream", b"\x00raw\xff", [("body", b"\x00raw\xff", "application/octet-stream")]),
        ("text/html; charset=iso-8859-1", b"<b>", [("body", b"<b>", "text/html")]),
        ("Application/JSON", b"{}", [("body", b"{}", "Application/JSON")]),
        ("application/x-www-form-urlencoded", b"hello", []),
        (
            "application/x-www-form-urlencoded",
            b"data=hello+world&x=%C3%A9&empty=",
            [("data", b"hello world", ""), ("x", b"\xc3\xa9", ""), ("empty", b"", "")],
        ),
        ("multipart/form-data", b"abc", [("body", b"abc", "multipart/form-data")]),
        (
            "multipart/form-data; boundary=BB",
            b'--BB\r\nContent-Disposition: form-data; name="data"; filename="a"\r\nContent-Type: image/png\r\n\r\n\x89PNG'
            b'\r\n--BB\r\nContent-Disposition: form-data; name="k"\r\n\r\nv\r\n--BB--\r\n',
            [("data", b"\x89PNG", "image/png"), ("k", b"v", "")],
        ),
        ("multipart/form-data; boundary=BB", b'--BB\r\nContent-Disposition: form-data; name="data"\r\n\r\nabc', []),
    ],
)
def test_bodies_become_parts(site: Any, content_type: str, body: bytes, expected: list[Any]) -> None:
    assert site.ask("inference", "POST", "/predictions/echo", body, Content_Type=content_type).status == 200
    assert fields(site) == expected


def test_without_a_body_handlers_see_an_empty_one(site: Any) -> None:
    site.ask("inference", "GET", "/predictions/echo")
    assert fields(site) == [("body", b"", "")]
    assert seen(site).headers == {"Host": "test", "content-length": "0", "url_path": "", "explain": "False"}


def test_a_chunked_body_shows_its_length(site: Any) -> None:
    with Connection(site.address("inference")) as connection:
        connection.send(
            b"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        assert connection.read().body == b"abc"
    assert seen(site).headers["content-length"] == "3"


def test_what_the_body_was_waited_with_and_a_second_content_type_reach_no_handler(site: Any) -> None:
    with Connection(site.address("inference")) as connection:
        connection.send(
            b"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"
            b"Content-Type: text/a\r\nContent-Type: text/b\r\n\r\n"
        )
        assert connection.read(head_only=True).status == 100
        connection.send(b"abc")
        assert connection.read().body == b"abc"
    assert "Expect" not in seen(site).headers and fields(site) == [("body", b"abc", "text/a")]


def test_headers_keep_the_client_s_spelling(site: Any) -> None:
    with Connection(site.address("inference")) as connection:
        connection.send(
            b"GET /predictions/echo HTTP/1.1\r\nHost: x\r\nx-MiXed: 1\r\nts_request_sequence_id: s\r\nx-MiXed: 2\r\n"
            b"url_path: x\r\n\r\n"
        )
        connection.read()
    given = seen(site).headers
    assert given["x-MiXed"] == "2" and given["ts_request_sequence_id"] == "s" and given["url_path"] == ""


# -- answers -------------------------------------------------------------------------------------------------------------


def test_a_handler_s_status_phrase_and_headers_are_sent(site: Any) -> None:
    own = {"X-Mine": "1", "content-type": "text/csv", "x-request-id": "fake", "Connection": "upgrade", "Pragma": "x"}
    site.plane.add("set", lambda _: [Response(body=b"body", status=201, reason="Made it", headers=own)])
    answer = site.ask("inference", "POST", "/predictions/set")
    assert (answer.status, answer.reason, answer.body) == (201, "Made it", b"body")
    headers = dict(answer.headers)
    assert headers["X-Mine"] == "1" and headers["content-type"] == "text/csv" and headers["Pragma"] == "no-cache"
    assert headers["connection"] == "keep-alive" and UUID.fullmatch(headers["x-request-id"])


def test_a_handler_s_error_status_keeps_its_body_and_closes(site: Any) -> None:
    site.plane.add("set", lambda _: [Response(body=b"teapot", status=418, reason="")])
    answer = site.ask("inference", "POST", "/predictions/set")
    assert (answer.status, answer.reason, answer.body) == (418, "", b"teapot")
    assert answer.header("connection") == "close"


@pytest.mark.parametrize(
    "response",
    [
        Response(body=b"", headers={"X-Evil": "a\r\nSet-Cookie: b"}),
        Response(body=b"", headers={"X Evil": "a"}),
        Response(body=b"", reason="a\r\nb"),
        Response(body=b"", status=99),
        Response(body=b"", status=1000),
    ],
)
def test_what_a_handler_cannot_send_is_an_error(site: Any, response: Response) -> None:
    site.plane.add("set", lambda _: [response])
    answer = site.ask("inference", "POST", "/predictions/set")
    assert error(answer)[:2] == (503, "InternalServerException")
    assert all("evil" not in name.lower() for name, _ in answer.headers)


def test_characters_that_no_header_can_hold_are_question_marks(site: Any) -> None:
    site.plane.add("set", lambda _: [Response(body=b"", headers={"X-Price": "\u20ac 5 \xe9"})])
    assert site.ask("inference", "POST", "/predictions/set").header("x-price") == "? 5 \xe9"


@pytest.mark.parametrize("path", ["/wfpredict/w", "/WfPredict/w/1"])
def test_no_workflow_is_there(site: Any, path: str) -> None:
    found = error(site.ask("inference", "POST", path, b"x"))
    assert found == (404, "WorkflowNotFoundException", "Workflow not found: w")


def test_an_empty_name_of_an_invocation_is_a_name(site: Any) -> None:
    site.plane.add("started", lambda _: [Response(body=b"the only one")], loaded_at_startup=True)
    found = error(site.ask("inference", "POST", "/invocations?model_name=", b"x"))
    assert found == (404, "ModelNotFoundException", "Model not found: ")


NO_WORKER = (
    " has no worker to serve inference request. Please use scale workers API to add workers."
    " If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)


@pytest.mark.parametrize(
    ("path", "raised", "expected"),
    [
        ("echo", NoWorkers("none"), (503, "ServiceUnavailableException", f'Model "echo"{NO_WORKER}')),
        ("echo/1.0", QueueFull("full"), (503, "ServiceUnavailableException", f'Model "echo" Version 1.0"{NO_WORKER}')),
        ("echo", Draining("stopping"), (503, "ServiceUnavailableException", "stopping")),
        ("echo", QueueTimeout("late"), (503, "ServiceUnavailableException", "late")),
        ("echo", WorkerDied("it died", 1), (500, "InternalServerException", "Worker died.")),
        ("echo", WorkerDied("it was killed", 137), (507, "InternalServerException", "Worker died.")),
        ("echo", WorkerTimeout("it took too long", 137), (500, "InternalServerException", "Worker died.")),
        ("echo", WorkerTimeout("slow"), (500, "InternalServerException", "Worker died.")),
        ("echo", ModelFailed("boom"), (503, "InternalServerException", "Prediction failed")),
        ("echo", ModelFailed("no", status=418, by_model=True), (418, "InternalServerException", "no")),
        ("echo", ModelFailed("no", status=200, by_model=True), (500, "InternalServerException", "no")),
        ("echo", ModelFailed("x", "OUT_OF_MEMORY"), (507, "InternalServerException", "Out of resources")),
        ("echo", ModelFailed("bad", "BAD_OUTPUT"), (503, "InternalServerException", "bad")),
        ("echo", ModelFailed("bad pixel", "INVALID_ARG", by_model=True), (400, "BadRequestException", "bad pixel")),
    ],
)
def test_errors_of_models_and_workers(site: Any, path: str, raised: JitneyError, expected: tuple[int, str, str]) -> None:
    def run(_: Request) -> Iterable[Response]:
        yield from ()
        raise raised

    site.plane.add("echo", run)
    asked = ("inference", "POST", f"/predictions/{path}", b"x")
    late = site.ask(*asked)
    site.plane.refusal = raised
    for answer in (late, site.ask(*asked)):
        assert error(answer) == expected
        assert answer.header("retry-after") == ("1" if isinstance(raised, Unavailable) else None)


def test_a_model_that_is_not_ready_says_why(site: Any) -> None:
    site.plane.refusal = ModelNotReady("echo", None, "it is still loading")
    assert error(site.ask("inference", "POST", "/predictions/echo"))[::2] == (
        503,
        "model 'echo' is not ready: it is still loading",
    )


def test_an_unforeseen_error_is_a_500_that_tells_nothing(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    site.plane.refusal = RuntimeError("secret path")
    status, kind, text = error(site.ask("inference", "POST", "/predictions/echo"))
    assert (status, kind) == (500, "InternalServerException") and "secret" not in text
    assert "secret path" in caplog.text


# -- waiting -------------------------------------------------------------------------------------------------------------


def test_a_call_is_cancelled_when_its_client_goes_away(site: Any) -> None:
    site.plane.add("forever", None)
    withdrawn = threading.Event()
    with Connection(site.address("inference")) as connection:
        connection.send(b"GET /predictions/forever HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: site.plane.calls)
        site.plane.calls[0].withdraw = withdrawn.set
    assert withdrawn.wait(5)
    wait_for(lambda: site.web.admission.held == 0)


def test_requests_that_wait_for_models_hold_no_thread(site: Any) -> None:
    site.plane.add("forever", None)
    waiting = [Connection(site.address("inference")) for _ in range(100)]
    for connection in waiting:
        connection.send(b"GET /predictions/forever HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_for(lambda: len(site.plane.calls) == len(waiting))
    assert site.ask("inference", "POST", "/predictions/echo", b"x").body == b"x"
    assert site.ask("inference", "GET", "/ping").status == 200
    for call in site.plane.calls[:100]:
        call.answer(Response(body=b"done"))
    assert [connection.read().body for connection in waiting] == [b"done"] * len(waiting)
    for connection in waiting:
        connection.sock.close()


def test_streams_hold_threads_and_are_bounded(site: Any) -> None:
    site.plane.add("stream", None)
    limit = site.web.admission.threads.limit
    streams = [Connection(site.address("inference")) for _ in range(limit + 1)]
    for number, connection in enumerate(streams, 1):
        connection.send(b"GET /predictions/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda number=number: len(site.plane.calls) == number)
    for call in site.plane.calls[:limit]:
        call.answer(Response(body=b"one", final=False))
    wait_for(lambda: site.web.admission.threads.taken == limit)
    site.plane.calls[limit].answer(Response(body=b"one", final=False))
    refused = streams[limit].read()
    assert (refused.status, json.loads(refused.body)["type"]) == (503, "ServiceUnavailableException")
    wait_for(lambda: site.plane.calls[limit].done)
    assert site.ask("inference", "GET", "/ping").status == 200
    for call in site.plane.calls[:limit]:
        call.answer(Response(body=b"two"))
    assert [connection.read().body for connection in streams[:limit]] == [b"onetwo"] * limit
    for connection in streams:
        connection.sock.close()
    wait_for(lambda: site.web.admission.held == 0)


def test_a_stream_is_sent_chunk_by_chunk(site: Any) -> None:
    site.plane.add("stream", None)
    with Connection(site.address("inference")) as connection:
        connection.send(b"GET /predictions/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: site.plane.calls)
        (call,) = site.plane.calls
        call.answer(Response(body=b"one", final=False, headers={"X-A": "b"}))
        head = connection._until(b"\r\n\r\n")
        assert b"ts_stream_next: true" in head and b"X-A: b" in head and b"transfer-encoding: chunked" in head
        assert connection._exactly(8) == b"3\r\none\r\n"
        call.answer(Response(body=b"", final=False))
        call.answer(Response(body=b"two"))
        assert connection._until(b"0\r\n\r\n") == b"3\r\ntwo\r\n"
        connection.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.read().status == 200
    wait_for(lambda: site.web.admission.held == 0)


def test_a_stream_that_fails_is_cut_off(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    site.plane.add("stream", None)
    with Connection(site.address("inference")) as connection:
        connection.send(b"GET /predictions/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: site.plane.calls)
        (call,) = site.plane.calls
        call.answer(Response(body=b"one", final=False))
        connection._until(b"3\r\none\r\n")
        call.answer(Response(error=Failure("it broke")))
        assert connection.closed() and connection.buffer == b""
    assert "it broke" in caplog.text
    wait_for(lambda: site.web.admission.held == 0)


def test_a_streaming_call_is_cancelled_when_its_client_goes_away(site: Any) -> None:
    site.plane.add("stream", None)
    with Connection(site.address("inference")) as connection:
        connection.send(b"GET /predictions/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: site.plane.calls)
        (call,) = site.plane.calls
        call.answer(Response(body=b"one", final=False))
        connection._until(b"one")
    wait_for(lambda: call.done and site.web.admission.held == 0)


def test_a_head_that_waits_for_its_model_keeps_nobody_else_waiting(site: Any) -> None:
    site.plane.add("never", None)
    with Connection(site.address("inference")) as connection:
        connection.send(b"HEAD /predictions/never HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: site.plane.calls)
        assert site.ask("inference", "GET", "/ping").status == 200
        site.plane.calls[0].answer(Response(body=b"at last"))
        assert connection.read(head_only=True).status == 200


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    deadline = threading.Event()
    for _ in range(int(seconds * 200)):
        if condition():
            return
        deadline.wait(0.005)
    raise AssertionError("it did not come to pass in time")


# -- models of a repository ----------------------------------------------------------------------------------------------------

FORM_TYPE = {"Content_Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def of_a_repository(site: Any) -> Any:
    site.plane.add("python", lambda request: [Response(body=b"ok")], backend="python")
    return site


@pytest.mark.parametrize("path", ["/predictions/python", "/predictions/python/1.0", "/v1/models/python:predict"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"text": "a=b"}', [("body", b'{"text": "a=b"}', "")]),
        (b"[[1, 2]]", [("body", b"[[1, 2]]", "")]),
        (b"a sentence", [("body", b"a sentence", "")]),
        (b"\xff\xd8=\x00&", [("body", b"\xff\xd8=\x00&", "")]),
        (b"\xff=1", [("body", b"\xff=1", "")]),
        (b"text=hi+there&n=3", [("text", b"hi there", ""), ("n", b"3", "")]),
        ("text=é".encode(), [("text", "é".encode(), "")]),
        (b"", []),
    ],
)
def test_what_is_no_form_is_a_body_whatever_its_label(
    of_a_repository: Any, path: str, body: bytes, expected: list[tuple[str, bytes, str]]
) -> None:
    for _ in range(2):
        assert of_a_repository.ask("inference", "POST", path, body, **FORM_TYPE).status == 200
        assert fields(of_a_repository) == expected


def test_handlers_get_forms_as_torchserve_s_do(site: Any) -> None:
    site.ask("inference", "POST", "/predictions/echo", b'{"text": "a=b"}', **FORM_TYPE)
    assert fields(site) == [('{"text": "a', b'b"}', "")]


def test_invocations_of_a_model_of_a_repository(of_a_repository: Any) -> None:
    of_a_repository.ask("inference", "POST", "/invocations?model_name=python", b"a sentence", **FORM_TYPE)
    assert fields(of_a_repository) == [("model_name", b"python", ""), ("body", b"a sentence", "")]


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (ModelFailed("ValueError: no such thing"), 503, "Prediction failed: ValueError: no such thing"),
        (ModelFailed("Prediction failed", reason="KeyError: 'k'"), 503, "Prediction failed: KeyError: 'k'"),
        (ModelFailed("my own words", by_model=True), 503, "my own words"),
        (WorkerDied("the worker ended with status 3", 3), 500, "Worker died: the worker ended with status 3"),
        (WorkerDied("killed", -9), 507, "Worker died: killed"),
        (NoWorkers("model 'python' has no workers"), 503, "model 'python' has no workers"),
        (QueueFull("Exceeds maximum queue size"), 503, "Exceeds maximum queue size"),
    ],
)
def test_errors_say_what_was_wrong(of_a_repository: Any, problem: Exception, status: int, text: str) -> None:
    of_a_repository.plane.refusal = problem
    for _ in range(2):
        answer = of_a_repository.ask("inference", "POST", "/predictions/python", b"x")
        assert (answer.status, json.loads(answer.body)["message"]) == (status, text)
        archive = of_a_repository.ask("inference", "POST", "/predictions/echo", b"x")
        assert archive.status == status and (text not in json.loads(archive.body)["message"] or text == "my own words")


def test_errors_that_come_later_say_it_too(of_a_repository: Any) -> None:
    def fail(_: Request) -> Iterable[Response]:
        raise ModelFailed("ValueError: late")

    of_a_repository.plane.add("late", fail, backend="python")
    for _ in range(2):
        answer = of_a_repository.ask("inference", "POST", "/predictions/late", b"x")
        assert json.loads(answer.body)["message"] == "Prediction failed: ValueError: late"


def test_kserve_v1_has_the_error_where_its_clients_look(of_a_repository: Any) -> None:
    of_a_repository.plane.refusal = ModelFailed("ValueError: x")
    answer = of_a_repository.ask("inference", "POST", "/v1/models/python:predict", b"x")
    assert json.loads(answer.body)["error"] == "Prediction failed: ValueError: x"
    archive = of_a_repository.ask("inference", "POST", "/v1/models/echo:predict", b"x")
    assert "error" not in json.loads(archive.body)


def test_options_describe_the_model_that_an_invocation_names(site: Any) -> None:
    assert "/prediction/echo" in json.loads(site.ask("inference", "OPTIONS", "/invocations?model_name=echo").body)["paths"]
    assert site.ask("inference", "OPTIONS", "/invocations?model_name=nope").status == 404
