"""Requests as they arrive: in pieces, between blank lines, or whole; and the status with which they are refused."""

from __future__ import annotations

import pytest

from jitney.server.http.engine.parsed_request import ParsedRequest, whole_request

from .test_parser import ADJ, head


@pytest.mark.parametrize("cut", [1, 10, 40, 50])
def test_a_request_in_two_pieces(cut: int) -> None:
    whole = head("Content-Length: 5") + b"abcdeGET"
    request = ParsedRequest(ADJ)
    assert request.received(whole[:cut]) == cut
    at = cut
    while not request.completed:
        at += request.received(whole[at:])
    assert at == len(whole) - 3
    assert request.error is None and bytes(request.body) == b"abcde"


def test_blank_lines_before_a_request_are_passed_over() -> None:
    request = ParsedRequest(ADJ)
    assert request.received(b"\r\n" + head("A: b")) and request.completed and not request.empty
    blank = ParsedRequest(ADJ)
    assert blank.received(b"\r\n\r\nGET") == 4 and blank.empty


@pytest.mark.parametrize("then", [b"", b"x\r\n\r\n", b"x" * ADJ.max_request_header_size])
def test_what_comes_behind_such_a_head_changes_nothing(then: bytes) -> None:
    """The request line says in which dialect it is refused."""
    request = ParsedRequest(ADJ)
    request.received(b"GET /v2 HTTP/1.1\r\nHost: a\n\n" + then)
    assert request.error is not None and (request.error.code, "CR LF" in request.error.body) == (400, True)
    assert len(then) > 10 or (request.line is not None and request.line.target == "/v2")


@pytest.mark.parametrize("ending", [b"\n\n", b"\n\r\n"])
def test_a_head_without_carriage_returns_is_refused_at_once(ending: bytes) -> None:
    request = ParsedRequest(ADJ)
    for byte in b"\n\nGET /ping HTTP/1.0" + ending:
        assert not request.completed
        request.received(bytes([byte]))
    assert request.completed and request.error is not None and request.error.code == 400
    assert "CR LF" in request.error.body


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (head("Content-Length: 1001"), 413),
        (head("Expect: tea", "Content-Length: 1"), 417),
        (head("X: " + "a" * 70_000), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
        (head("Transfer-Encoding: gzip"), 501),
        (b"garbage\r\n\r\n", 400),
    ],
)
def test_refusals_have_their_status(data: bytes, code: int) -> None:
    request = ParsedRequest(ADJ)
    request.received(data)
    assert request.completed and request.error is not None and request.error.code == code
    assert whole_request(ADJ, data) is None


def test_a_whole_request_is_one_and_nothing_more() -> None:
    assert whole_request(ADJ, head("Content-Length: 2") + b"ab") is not None
    for data in (
        head("Content-Length: 2") + b"a",
        head("Content-Length: 2") + b"abG",
        head("Expect: 100-continue"),
        head("Transfer-Encoding: chunked") + b"0\r\n\r\n",
        b"\r\n" + head(),
        head()[:-2],
    ):
        assert whole_request(ADJ, data) is None
