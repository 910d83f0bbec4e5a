"""The same request in every way it can arrive: its answer is the same but for what has to differ.

First on a connection or later, in pieces or behind another one, over HTTP/1.1 or 1.0, with a token where none is needed or where
one is, to one process or to front ends: each way is compared with the first request of a fresh connection.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.server.http.middleware.tokens import Tokens
from jitney.server.settings.addresses import Address
from jitney.tests.fakes.frontends import opened_fronts
from jitney.tests.fakes.plane import doubling, loaded
from jitney.tests.fakes.raw_http import Answer, Connection

from .mutations import mutated, pieces

TOKEN = "a-token-for-tests"
BEARER = b"Authorization: Bearer " + TOKEN.encode()
#: What differs from answer to answer, or belongs to the connection and not to the answer.
_OWN = ("date", "x-request-id", "connection")
RIGHT = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
BODIES = mutated(
    st.sampled_from((RIGHT, RIGHT, b'{"x": [1, 2]}', b'{"instances": [{"x": [1, 2]}]}', b"", b"a=1&b=2", b"[1, 2]")), most=2
)
PATHS = st.sampled_from(
    (
        b"/v2/models/m/infer",
        b"/v2/models/m/versions/1/infer",
        b"/v2/models/nobody/infer",
        b"/v2/models/m/versions/9/infer",
        b"/predictions/m",
        b"/predictions/m/1",
        b"/predictions/nobody",
        b"/v1/models/m:predict",
        b"/invocations",
        b"/v2/models/%6d/infer",
        b"//v2/models/m/infer",
        b"/v2/models/m/infer/",
        b"/v2/models/m/infer?a=b",
        b"/nowhere",
        b"/v2/models/m%2finfer",
        b"/PREDICTIONS/m",
    )
)
LINES = st.sampled_from(
    (
        b"Content-Type: application/json",
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Type: text/plain",
        b"Inference-Header-Content-Length: 5",
        b"Accept-Encoding: gzip",
        b"X-Request-Id: me",
        b"X-A: b",
        b"Origin: http://x",
        b"Content-Encoding: gzip",
        b"Content-Type: multipart/form-data; boundary=b",
        b"Expect: 100-continue",
    )
)
METHODS = st.sampled_from((b"POST", b"POST", b"POST", b"GET", b"PUT", b"OPTIONS", b"DELETE"))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The head without its version's end and its body; everything is well-formed HTTP, nothing else has to be right."""
    body = draw(BODIES)
    lines = [
        b"%s %s HTTP/1.1" % (draw(METHODS), draw(PATHS)),
        b"Host: test",
        *draw(st.lists(LINES, max_size=3, unique=True)),
    ]
    if body or draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines), body


Told = tuple[int, str, list[tuple[str, str]], bytes]


def told(answer: Answer) -> Told:
    headers = sorted((name.lower(), value) for name, value in answer.headers if name.lower() not in _OWN)
    return answer.status, answer.reason, headers, answer.body


def read(connection: Connection) -> Told:
    """The next answer that is one: `100 Continue` goes before it."""
    while (answer := connection.read()).status == 100:
        pass
    return told(answer)


class Server:
    """Where it listens; a connection of its own for each question."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def first(self, data: bytes) -> Told:
        with Connection(self.address, 20) as connection:
            connection.send(data)
            return read(connection)

    def later(self, data: bytes, before: bytes) -> Told:
        with Connection(self.address, 20) as connection:
            connection.send(before)
            read(connection)
            connection.send(data)
            return read(connection)

    def behind(self, data: bytes, before: bytes) -> Told:
        """Pipelined: it is sent while the one before it is under way."""
        with Connection(self.address, 20) as connection:
            connection.send(before + data)
            read(connection)
            return read(connection)

    def in_pieces(self, data: bytes, cuts: list[int]) -> Told:
        with Connection(self.address, 20) as connection:
            for piece in pieces(data, cuts):
                connection.send(piece)
            return read(connection)


@contextlib.contextmanager
def served(folder: Path, **values: Any) -> Iterator[Callable[..., Server]]:
    doubling(folder, "m", "dynamic_batching { }")
    with loaded(folder) as plane, contextlib.ExitStack() as stack:

        def opened(tokens: Tokens | None = None, **more: Any) -> Server:
            return Server(stack.enter_context(opened_fronts(plane, tokens, **{"front_ends": 1, **values, **more})).inference)

        yield opened


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server, Server]]:
    """One process that needs no token, one that does, and two front ends."""
    with served(tmp_path_factory.mktemp("models")) as opened:
        guarded = opened(Tokens(None, 60.0, fixed=TOKEN), disable_token_authorization=False, token=TOKEN)
        yield opened(), guarded, opened(front_ends=2)


def whole(head: bytes, body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([head, *lines, b"", b""]) + body


BEFORE = whole(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: test\r\nContent-Length: %d" % len(RIGHT), RIGHT)


@given(requests(), st.lists(st.integers(0, 400), max_size=4))
def test_however_it_arrives(servers: tuple[Server, Server, Server], request_: tuple[bytes, bytes], cuts: list[int]) -> None:
    server, data = servers[0], whole(*request_)
    expected = server.first(data)
    assert expected[0] < 500 or expected[0] in (501, 503), expected
    assert server.later(data, BEFORE) == expected
    assert server.behind(data, BEFORE) == expected
    assert server.in_pieces(data, cuts) == expected


@given(requests())
def test_whoever_answers_it(servers: tuple[Server, Server, Server], request_: tuple[bytes, bytes]) -> None:
    server, guarded, fronts = servers
    data = whole(*request_)
    expected = server.first(data)
    assert fronts.first(data) == expected
    assert server.first(whole(*request_, BEARER)) == expected, "a token that nobody asks for"
    assert guarded.first(whole(*request_, BEARER)) == expected
    without = guarded.first(data)
    assert without == expected or without[0] in (400, 401, 403), "without a token"
    if expected[0] == 200 and request_[0].startswith(b"POST"):
        assert without[0] in (400, 401, 403), "a model was asked without a token"


@given(requests())
def test_in_http_1_0(servers: tuple[Server, Server, Server], request_: tuple[bytes, bytes]) -> None:
    head, body = request_
    if b"Expect" in head:
        return
    server = servers[0]
    expected = server.first(whole(head, body))
    assert server.first(whole(head.replace(b"HTTP/1.1", b"HTTP/1.0", 1), body, b"Connection: keep-alive")) == expected
    assert server.first(whole(head.replace(b"HTTP/1.1", b"HTTP/1.0", 1), body)) == expected
