"""Requests that have a plan: the same answer however the request arrives, and whatever else its head holds."""

from __future__ import annotations

import contextlib
import gc
import json
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jitney.core import holding
from jitney.core.call import Call
from jitney.core.errors import HoldsTooMuch, InvalidRequest, ModelFailed, QueueFull
from jitney.core.request import Request, Response
from jitney.server.http.engine.parser import RequestLine
from jitney.server.http.middleware.recorder import Recorder
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.http.plan import InFlightRequest, PlanTable, RoutePlan
from jitney.server.metrics import Metrics
from jitney.tests.fakes.frontends import settings
from jitney.tests.fakes.raw_http import Answer, Connection
from jitney.tools.bench.served import wait_until

_EACH_TIME = ("x-request-id", "date")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request whether it was answered by a plan."""
    seen: list[bool] = []
    find = PlanTable.find

    def found(table: PlanTable, line: Any) -> Any:
        plan = find(table, line)
        seen.append(plan is not None)
        return plan

    monkeypatch.setattr(PlanTable, "find", found)
    return seen


def same(site: Any, request: bytes) -> Answer:
    """The answer that is given twice on one connection, with a header of its own each time, in two packets, and elsewhere."""
    end = request.index(b"\r\n\r\n")
    unique = [request[:end] + b"\r\ntraceparent: 00-%032d-1-01" % number + request[end:] for number in range(2)]
    answers = []
    connection = Connection(site.address("inference"))
    for pieces in ([request], [unique[0]], [unique[1]], [request[: end + 2], request[end + 2 :]]):
        for piece in pieces:
            connection.send(piece)
        answers.append(connection.read())
        if answers[-1].header("connection") == "close":
            assert connection.closed()
            connection.sock.close()
            connection = Connection(site.address("inference"))
    connection.sock.close()
    with Connection(site.address("inference")) as other:
        other.send(request)
        answers.append(other.read())
    seen = [(a.status, a.reason, sorted(h for h in a.headers if h[0].lower() not in _EACH_TIME), a.body) for a in answers]
    assert seen[1:] == seen[:1] * 4
    return answers[0]


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def test_predictions_have_a_plan(open_site: Any, planned: list[bool]) -> None:
    site = open_site()
    assert same(site, post("/predictions/echo", b"abc", "Content-Type: text/plain")).body == b"abc"
    assert planned == [True] * 5
    assert site.metrics.scrape(["Requests2XX"]).count(b"} 5.0") == 1


def test_what_handlers_see_is_the_same(open_site: Any, planned: list[bool]) -> None:
    def show(request: Request) -> list[Response]:
        parts = [(part.name, bytes(part.data).decode(), part.content_type) for part in request.parts]
        told = {name: value for name, value in request.headers.items() if name != "traceparent"}
        return [Response(body=json.dumps([parts, told]).encode(), headers={"X-MiXed": "a", "Set-Cookie": "b"})]

    site = open_site()
    site.plane.add("show", show)
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    form = part % (b"a", b"1") + part % (b"b", b"2") + b"--x--\r\n"
    answer = same(site, post("/predictions/show/1.0?q=1", form, "x-aB: c", "Content-Type: multipart/form-data; boundary=x"))
    parts, headers = json.loads(answer.body)
    assert [part[:2] for part in parts] == [["a", "1"], ["b", "2"]] and headers["x-aB"] == "c"
    assert ("X-MiXed", "a") in answer.headers and ("Set-Cookie", "b") in answer.headers
    assert all(planned)


@pytest.mark.parametrize(
    "problem",
    [QueueFull("full"), InvalidRequest("bad"), ModelFailed("boom"), ModelFailed("x", "BAD_OUTPUT"), ValueError("defect")],
)
def test_errors_are_the_same(open_site: Any, planned: list[bool], problem: Exception) -> None:
    site = open_site()
    site.plane.refusal = problem
    assert same(site, post("/predictions/echo", b"abc")).status >= 400
    assert all(planned)


@pytest.mark.parametrize(
    "path", ["/predictions/nobody", "/predictions/echo/9.9", "/v2/models/nobody/infer", "/predictions/echo/"]
)
def test_unknown_models_and_versions_are_the_same(open_site: Any, planned: list[bool], path: str) -> None:
    same(open_site(), post(path, b"abc"))
    assert all(planned)


def test_models_that_answer_late_and_fail_late_are_the_same(open_site: Any) -> None:
    site = open_site()

    def fail(_: Request) -> list[Response]:
        raise ModelFailed("late", status=507)

    site.plane.add("fail", fail)
    assert same(site, post("/predictions/fail", b"abc")).status == 507
    site.plane.add("teapot", lambda _: [Response(body=b"pot", status=418, reason="Short and stout")])
    assert same(site, post("/predictions/teapot", b"abc")).reason == "Short and stout"
    site.plane.add("nothing", lambda _: [Response(status=204)])
    with Connection(site.address("inference")) as connection:
        for _ in range(3):
            connection.send(post("/predictions/nothing", b"abc"))
            assert connection.read().status == 204


def test_streams_are_the_same(open_site: Any, planned: list[bool]) -> None:
    site = open_site()
    site.plane.add("stream", lambda _: [Response(body=b"one", final=False), Response(body=b"two")])
    assert same(site, post("/predictions/stream", b"abc")).chunks == [b"one", b"two"]
    assert all(planned)


def test_a_stream_is_announced_once(open_site: Any) -> None:
    """Handlers announce it too, as TorchServe's library does."""
    site = open_site()
    announced = {"TS_Stream_Next": "true", "x-own": "1"}
    site.plane.add("stream", lambda _: [Response(body=b"one", final=False, headers=announced), Response(body=b"two")])
    answer = same(site, post("/predictions/stream", b"abc"))
    assert [value for name, value in answer.headers if name.lower() == "ts_stream_next"] == ["true"]
    assert answer.header("x-own") == "1"


def test_cross_origin_headers_are_the_same(open_site: Any) -> None:
    site = open_site(cors_allowed_origin="http://a")
    assert same(site, post("/predictions/echo", b"abc")).header("access-control-allow-origin") == "http://a"


def test_a_client_s_wish_to_close_is_honoured(open_site: Any) -> None:
    assert same(open_site(), post("/predictions/echo", b"abc", "Connection: close")).header("connection") == "close"


@pytest.mark.parametrize("command", ["GET", "PUT", "BREW", "DELETE"])
def test_any_method_predicts(open_site: Any, planned: list[bool], command: str) -> None:
    request = post("/predictions/echo", b"abc").replace(b"POST", command.encode())
    assert same(open_site(), request).body == b"abc"
    assert all(planned)


def test_head_is_answered_without_a_body(open_site: Any, planned: list[bool]) -> None:
    with Connection(open_site().address("inference")) as connection:
        for _ in range(2):
            connection.send(b"HEAD /predictions/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            head = connection._until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and b"content-length: 3" in head
    assert all(planned)


@pytest.mark.parametrize(
    "path",
    [
        "/explanations/echo",
        "/v1/models/echo:predict",
        "/v1/models/echo:explain",
        "/echo/predict",
        "/models/echo/invoke",
        "/v2/models/echo/infer",
        "/v2/models/echo/explain",
        "/predictions/echo/1.0/and/more?a=%20b",
        "//predictions/echo",
    ],
)
def test_every_route_that_waits_for_a_model_has_a_plan(open_site: Any, planned: list[bool], path: str) -> None:
    assert same(open_site(), post(path, b"abc", "Content-Type: text/plain")).body == b"abc"
    assert all(planned)


def test_inputs_in_the_query_come_before_the_body(open_site: Any, planned: list[bool]) -> None:
    for path in ("/invocations?model_name=echo", "/echo/predict?first=echo", "/models/echo/invoke?first=echo"):
        assert same(open_site(), post(path, b"abc", "Content-Type: text/plain")).body == b"echo"
    assert all(planned)


@pytest.mark.parametrize(
    "request_line", [b"OPTIONS /predictions/echo", b"POST /ping", b"POST /models", b"GET /v2/models/echo/infer"]
)
def test_other_requests_are_the_application_s(open_site: Any, planned: list[bool], request_line: bytes) -> None:
    same(open_site(), request_line + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert not any(planned)


def test_where_tokens_are_asked_for_plans_ask_for_them(open_site: Any, planned: list[bool], tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "key_file.json", 60)
    site = open_site(tokens=tokens)
    assert same(site, post("/predictions/echo", b"abc")).status == 400
    right = f"Authorization: Bearer {tokens.keys['inference'].text}"
    assert same(site, post("/predictions/echo", b"abc", right)).body == b"abc"
    wrong = f"Authorization: Bearer {tokens.keys['management'].text}"
    refused = same(site, post("/v2/models/echo/infer", b"abc", wrong))
    assert refused.status == 400 and "Token Authorization failed" in json.loads(refused.body)["error"]
    assert all(planned)


def test_a_restricted_group_asks_for_its_header(open_site: Any, planned: list[bool]) -> None:
    site = open_site(http_restricted_api={"inference": ("X-Key", "secret")})
    assert same(site, post("/predictions/echo", b"abc")).status == 403
    assert "X-Key" in json.loads(same(site, post("/v2/models/echo/infer", b"abc", "x-key: other")).body)["error"]
    assert same(site, post("/predictions/echo", b"abc", "x-key: secret")).body == b"abc"
    assert all(planned)


@pytest.mark.parametrize(
    ("lines", "status"),
    [(["Content-Encoding: br"], 501), (["Inference-Header-Content-Length: 9"], 400), (["Content-Encoding: gzip"], 400)],
)
def test_what_no_handler_gets_to_see_is_refused_as_triton_would(open_site: Any, lines: list[str], status: int) -> None:
    refused = same(open_site(), post("/v2/models/echo/infer", b"abc", *lines))
    assert refused.status == status and list(json.loads(refused.body)) == ["error"]


def test_a_bad_escape_in_the_query_is_refused(open_site: Any, planned: list[bool]) -> None:
    site = open_site()
    assert same(site, post("/models/echo/invoke?a=1", b"abc")).status == 200
    assert same(site, post("/models/echo/invoke?a=%zz", b"abc")).status == 403
    assert all(planned)


def test_http_1_0_ends_the_connection_unless_it_is_to_be_kept(open_site: Any) -> None:
    site = open_site()
    old = post("/predictions/echo", b"abc").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert same(site, old).header("connection") == "close"
    kept = same(site, old.replace(b"Host: test", b"Host: test\r\nConnection: keep-alive"))
    assert kept.header("connection") == "keep-alive"
    site.plane.add("stream", lambda _: [Response(body=b"one", final=False), Response(body=b"two")])
    with Connection(site.address("inference")) as connection:
        connection.send(post("/predictions/stream").replace(b"HTTP/1.1", b"HTTP/1.0"))
        while connection._fill():
            pass
        assert connection.buffer.endswith(b"\r\n\r\nonetwo")


def test_a_chunked_body_is_read_as_a_whole(open_site: Any, planned: list[bool]) -> None:
    chunked = (
        b"POST /predictions/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    )
    assert same(open_site(), chunked).body == b"abc"
    assert all(planned)


def test_a_plan_ends_with_the_state_for_which_it_was_made() -> None:
    made: list[str] = []
    plane = SimpleNamespace(state=1)
    table = PlanTable(lambda line: made.append(line.route), plane)
    line = RequestLine(b"POST /predictions/m?a=1 HTTP/1.1")
    assert [table.find(line), table.find(line)] == [None, None]
    table.find(RequestLine(b"POST /predictions/m?a=2 HTTP/1.1"))
    assert made == ["POST /predictions/m"]
    plane.state = 2
    table.find(line)
    assert made == ["POST /predictions/m"] * 2


def test_requests_for_different_paths_have_different_plans(open_site: Any, planned: list[bool]) -> None:
    """What stands behind a question mark is no path, also where none stands before it."""
    site = open_site()
    for target in (b"http://x?/predictions/echo", b"http://x?/predictions/nope"):
        with Connection(site.address("inference")) as connection:
            connection.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" % target)
            assert connection.read().status == 405
    assert planned == [False, False]


def test_requests_that_arrive_together_are_answered_in_order(open_site: Any) -> None:
    site = open_site()
    request = post("/predictions/echo", b"abcdef")
    same(site, request)
    with Connection(site.address("inference")) as connection:
        connection.send(request[:-3])
        connection.send(request[-3:])
        assert connection.read().body == b"abcdef"
        connection.send(request + request)
        assert [connection.read().body for _ in range(2)] == [b"abcdef"] * 2


def test_a_client_that_goes_away_withdraws_its_call(open_site: Any) -> None:
    site = open_site()
    same(site, post("/predictions/echo", b"abc"))
    site.plane.add("stuck", None)
    request = post("/predictions/stuck", b"abc")
    for _ in range(3):
        with Connection(site.address("inference")) as connection:
            before = len(site.plane.calls)
            connection.send(request)
            wait_until(lambda: len(site.plane.calls) > before, 5, "the call")  # noqa: B023
        call = site.plane.calls[-1]
        deadline = time.monotonic() + 5
        while call.error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "went away" in str(call.error)


class Unheard(InFlightRequest):
    """A request of which nobody waits for the answer."""

    def wake(self) -> None: ...


def test_a_stream_that_nobody_reads_ends_where_the_process_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's mailbox is bounded as a call's own is."""
    monkeypatch.setattr(holding, "process", holding.Holdings(2 * holding.SPARED))
    nothing: Any = None
    flight = Unheard(RoutePlan(nothing, nothing), nothing, b"")
    call = flight.call = Call(Request(), on_answer=flight.answered)
    taken = 0
    while call.answer(Response(body=bytes(holding.COUNTED), final=False)) and not call.done:
        taken += 1
        assert taken < 10_000
    assert taken > 1 and isinstance(call.error, HoldsTooMuch)
    assert sum(1 for _ in read_until_error(flight)) == taken + 1


def read_until_error(flight: InFlightRequest) -> Iterator[Response]:
    with pytest.raises(HoldsTooMuch):
        yield from flight.responses()


def test_a_request_that_was_withdrawn_before_it_was_queued_is_never_run() -> None:
    class Queues(RoutePlan):
        def begin(self, flight: InFlightRequest) -> None:
            flight.call = Call(Request(), on_answer=flight.answered)

    nothing: Any = None
    flight = Unheard(Queues(nothing, nothing), nothing, b"abc")
    flight.cancel()
    flight.begin_plan()
    assert flight.call is not None and flight.call.done and flight.body == b""


def test_a_failed_request_is_let_go_of() -> None:
    """An error that was raised refers to who raised it, and so to the body."""
    nothing: Any = None
    recorder = Recorder(settings(), Metrics().torchserve)
    plan = RoutePlan(recorder, nothing)
    flight = Unheard(plan, nothing, b"")
    flight.note = {"a body"}  # a weak reference may refer to a set
    body = weakref.ref(flight.note)
    flight.answered(ModelFailed("wrong"))
    gc.disable()
    try:
        with contextlib.suppress(ModelFailed):
            flight.only()
        plan.end(flight)
        del flight
        assert body() is None
    finally:
        gc.enable()


def test_a_request_leaves_no_garbage(open_site: Any, planned: list[bool]) -> None:
    """Cycles would keep bodies in memory until the collector comes."""
    site = open_site()
    request = post("/predictions/echo", b"abc")
    same(site, request)
    with Connection(site.address("inference")) as connection:
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                connection.send(request)
                connection.read()
            site.plane.calls.clear()
            connection.send(request)  # the thread of the loop has let go of the requests before this one
            connection.read()
            found = gc.collect()
        finally:
            gc.enable()
    assert found < 50


@pytest.mark.parametrize("body", [b"a sentence", b'{"a": "b=c"}', b"a=b&c=d", b"\xff=\x00"])
def test_what_codecs_get_of_a_body_called_a_form_is_the_same(open_site: Any, body: bytes) -> None:
    def show(request: Request) -> list[Response]:
        return [Response(body=repr([(part.name, bytes(part.data), part.content_type) for part in request.parts]).encode())]

    site = open_site()
    site.plane.add("show", show, backend="python")
    same(site, post("/predictions/show", body, "Content-Type: application/x-www-form-urlencoded"))


def test_reasons_are_the_same(open_site: Any) -> None:
    site = open_site()
    site.plane.add("python", lambda _: [], backend="python")
    site.plane.refusal = ModelFailed("ValueError: boom")
    assert b"Prediction failed: ValueError: boom" in same(site, post("/predictions/python", b"abc")).body
