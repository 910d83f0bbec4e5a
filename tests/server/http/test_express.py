"""The short way answers as the usual one: every request is sent three times, and only the first can take the usual way."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest

from jitney.backends.base import Request, Response
from jitney.server.errors import InvalidRequest, ModelFailed, QueueFull
from jitney.server.http.express import Express
from jitney.server.http.tokens import Tokens
from jitney.tests.fakes.raw_http import Answer, Connection

_EACH_TIME = ("x-request-id", "date")


class Ways:
    """Counts how many requests found a short way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heads, self.short = 0, 0
        find = Express.route

        def route(express: Express, head: Any) -> Any:
            found = find(express, head)
            self.heads += 1
            self.short += found is not None
            return found

        monkeypatch.setattr(Express, "route", route)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(monkeypatch)


def same(site: Any, request: bytes) -> Answer:
    """The answer that was given three times on one connection, and a fourth time on another one."""
    with Connection(site.address("inference")) as connection:
        answers = []
        for _ in range(3):
            connection.send(request)
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
    assert seen[1:] == seen[:1] * 3
    return answers[0]


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def test_predictions_take_the_short_way(open_site: Any, ways: Ways) -> None:
    site = open_site()
    assert same(site, post("/predictions/echo", b"abc", "Content-Type: text/plain")).body == b"abc"
    assert (ways.heads, ways.short) == (1, 1)
    assert site.metrics.scrape(["Requests2XX"]).count(b"} 4.0") == 1


def test_what_handlers_see_is_the_same(open_site: Any, ways: Ways) -> None:
    def show(request: Request) -> list[Response]:
        parts = [(part.name, bytes(part.data).decode(), part.content_type) for part in request.parts]
        return [
            Response(body=json.dumps([parts, dict(request.headers)]).encode(), headers={"X-MiXed": "a", "Set-Cookie": "b"})
        ]

    site = open_site()
    site.plane.add("show", show)
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    form = part % (b"a", b"1") + part % (b"b", b"2") + b"--x--\r\n"
    answer = same(site, post("/predictions/show/1.0?q=1", form, "x-aB: c", "Content-Type: multipart/form-data; boundary=x"))
    parts, headers = json.loads(answer.body)
    assert [part[:2] for part in parts] == [["a", "1"], ["b", "2"]] and headers["x-aB"] == "c"
    assert ("X-MiXed", "a") in answer.headers and ("Set-Cookie", "b") in answer.headers
    assert ways.short == 1


@pytest.mark.parametrize(
    "problem",
    [QueueFull("full"), InvalidRequest("bad"), ModelFailed("boom"), ModelFailed("x", "BAD_OUTPUT"), ValueError("defect")],
)
def test_errors_are_the_same(open_site: Any, ways: Ways, problem: Exception) -> None:
    site = open_site()
    site.plane.refusal = problem
    assert same(site, post("/predictions/echo", b"abc")).status >= 400
    assert ways.short >= 1


@pytest.mark.parametrize(
    "path", ["/predictions/nobody", "/predictions/echo/9.9", "/v2/models/nobody/infer", "/predictions/echo/"]
)
def test_unknown_models_and_versions_are_the_same(open_site: Any, ways: Ways, path: str) -> None:
    same(open_site(), post(path, b"abc"))
    assert ways.short == 1


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


def test_streams_are_the_same(open_site: Any, ways: Ways) -> None:
    site = open_site()
    site.plane.add("stream", lambda _: [Response(body=b"one", final=False), Response(body=b"two")])
    assert same(site, post("/predictions/stream", b"abc")).chunks == [b"one", b"two"]
    assert ways.short == 1


def test_cross_origin_headers_are_the_same(open_site: Any) -> None:
    site = open_site(cors_allowed_origin="http://a")
    assert same(site, post("/predictions/echo", b"abc")).header("access-control-allow-origin") == "http://a"


def test_a_client_s_wish_to_close_is_honoured(open_site: Any) -> None:
    assert same(open_site(), post("/predictions/echo", b"abc", "Connection: close")).header("connection") == "close"


@pytest.mark.parametrize(
    "request_line", [b"GET /predictions/echo", b"PUT /predictions/echo", b"POST /ping", b"POST /models"]
)
def test_other_requests_take_the_usual_way(open_site: Any, ways: Ways, request_line: bytes) -> None:
    same(open_site(), request_line + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert ways.short == 0


def test_where_tokens_are_asked_for_nothing_takes_the_short_way(open_site: Any, ways: Ways, tmp_path: Path) -> None:
    site = open_site(tokens=Tokens(tmp_path / "key_file.json", 60))
    assert same(site, post("/predictions/echo", b"abc")).status == 400
    assert ways.heads == 0


def test_a_body_in_two_packets_takes_the_usual_way(open_site: Any) -> None:
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
    for number in range(1, 4):
        with Connection(site.address("inference")) as connection:
            connection.send(request)
            while len(site.plane.calls) < number + 4:
                pass
        call = site.plane.calls[-1]
        deadline = time.monotonic() + 5
        while call.error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "went away" in str(call.error)


def test_a_request_leaves_no_garbage(open_site: Any, ways: Ways) -> None:
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
