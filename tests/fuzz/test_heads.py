"""Heads of requests: the same whatever the pieces they come in, and nothing that two programs could read in two ways."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from waitress.parser import ParsingError, TransferEncodingNotImplemented

from jitney.server.http.engine.parsed_request import ParsedRequest, whole_request
from jitney.server.http.engine.parser import RequestHead, parse_head

from .mutations import mutated, pieces

ADJ: Any = SimpleNamespace(max_request_body_size=1001, max_request_header_size=65536, url_scheme="http")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

LINES = st.sampled_from(
    (
        b"Host: a",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Expect: 100-continue",
        b"X-A: b",
        b"x-a:c",
        b"Under_Score: d",
        b"Content-Type: text/plain",
        b"Upgrade: h2c",
    )
)
FIRST = st.sampled_from(
    (
        b"POST /predictions/m HTTP/1.1",
        b"GET / HTTP/1.0",
        b"PUT /v2/models/m?a=b HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET //a%2fb HTTP/1.1",
    )
)
HEADS = st.builds(
    lambda first, lines, body: b"\r\n".join([first, b"Host: a", *lines, b"", b""]) + body,
    FIRST,
    st.lists(LINES, max_size=4),
    st.sampled_from((b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n")),
)


def told(request: ParsedRequest) -> Any:
    """What a request is, as far as anything depends on it."""
    head = request.head
    fields = (
        None if head is None else (head.pairs, head.fields, head.length, head.chunked, head.keeps_open, head.line.target)
    )
    error = None if request.error is None else (request.error.code, str(request.error.body))
    return fields, error, request.completed, request.empty, bytes(request.body) if request.completed else None


def read(parts: list[bytes]) -> tuple[Any, int]:
    """What comes of a request in pieces, and how many bytes it takes."""
    request, taken = ParsedRequest(ADJ), 0
    for part in parts:
        while part and not request.completed:
            used = request.received(part)  # of a head and a body, the head first
            taken, part = taken + used, part[used:]
    found = told(request)
    request.close()
    return found, taken


@given(mutated(HEADS), st.lists(st.integers(0, 2000), max_size=6))
def test_the_pieces_in_which_a_request_comes_change_nothing(data: bytes, cuts: list[int]) -> None:
    whole, taken = read([data])
    assert read(pieces(data, cuts))[0] == whole
    request = whole_request(ADJ, data) if data else None
    if request is not None:  # the short way to the same
        fields, error, completed, _, body = whole
        assert error is None and completed and body == request[1] and taken == len(data)
        assert fields[0] == request[0].pairs


@given(mutated(HEADS, most=2))
def test_a_head_that_is_taken_can_be_read_in_one_way_only(data: bytes) -> None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return
    head = data[: end + 4].lstrip()
    if not head:
        return
    try:
        found = parse_head(head)
    except (ParsingError, TransferEncodingNotImplemented):
        return
    check_that_nothing_is_ambiguous(head, found)


def check_that_nothing_is_ambiguous(raw: bytes, found: RequestHead) -> None:
    first, *lines = raw[:-4].split(b"\r\n")
    assert not set(first) & {*range(32), 127} and first.count(b" ") in (1, 2)
    names = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon and _TOKEN.fullmatch(name), line
        assert not set(value) & set(b"\r\n\0"), line
        names.append(name.lower())
    lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
    assert lengths + codings <= 1
    assert found.chunked == bool(codings)
    if lengths:
        (text,) = [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(b"content-length:")]
        assert text.isdigit() and found.length == int(text)
    assert names.count(b"host") == 1 or found.line.version != "1.1"
