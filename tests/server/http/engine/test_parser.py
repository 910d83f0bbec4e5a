"""Heads of requests: what is read, what is refused and with which words, and that what is kept for later has an end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from waitress.parser import ParsingError, TransferEncodingNotImplemented

from jitney.server.http.engine import parser
from jitney.server.http.engine.parsed_request import whole_request
from jitney.server.http.engine.parser import parse_head

ADJ: Any = SimpleNamespace(max_request_body_size=1001, max_request_header_size=65536, url_scheme="http")


def head(*lines: str, first: str = "POST /predictions/m HTTP/1.1", host: str = "Host: a") -> bytes:
    return "\r\n".join((first, host, *lines, "", "")).encode("latin-1")


def test_a_head_is_taken_apart() -> None:
    found = parse_head(head("X-aB:  c \t", "x-ab: d", "under_score: e", "Empty:", "Content-Length: 12"))
    assert found.pairs[1:3] == [("X-aB", "c"), ("x-ab", "d")]
    assert found.fields == {"host": "a", "x-ab": "c, d", "empty": "", "content-length": "12"}
    assert (found.length, found.chunked, found.keeps_open, found.expectation) == (12, False, True, "")
    line = found.line
    assert (line.command, line.target, line.path, line.version) == ("POST", "/predictions/m", "/predictions/m", "1.1")


def test_of_several_content_types_the_first_counts() -> None:
    found = parse_head(head("Content-Type: text/plain", "content-type: application/json", "Content-Type:"))
    assert found.fields["content-type"] == "text/plain" and len(found.pairs) == 4


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%20b?x=%20", "/a b", "x=%20"),
        ("//a", "/a", ""),
        ("http://host:1/a/b?c", "/a/b", "c"),
        ("/a?b?c", "/a", "b?c"),
        ("*", "*", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    line = parse_head(head(first=f"BREW {target} HTTP/1.0")).line
    assert (line.command, line.path, line.query, line.version) == ("BREW", path, query, "1.0")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Content-Length: 1", "Transfer-Encoding: chunked"], "exclude each other"),
        (["Transfer-Encoding: chunked", "Content-Length: 1"], "exclude each other"),
        (["Content-Length: 1", "Content-Length: 1"], "more than once"),
        (["Content-Length: 1", "content-length: 2"], "more than once"),
        (["Content-Length: 1, 1"], "Content-Length"),
        (["Content-Length: +1"], "Content-Length"),
        (["Content-Length: 0x1"], "Content-Length"),
        (["Content-Length: 1_0"], "Content-Length"),
        (["Content-Length:"], "Content-Length"),
        (["Content-Length: 99999999999999999999999"], "Content-Length"),
        (["Transfer-Encoding: gzip, chunked"], "only one Transfer-Encoding"),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], "only one Transfer-Encoding"),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], "only one Transfer-Encoding"),
        (["A: b", " c"], "folded"),
        (["A: b", "\tc"], "folded"),
        ([" A: b"], "folded"),
        (["A : b"], "malformed"),
        (["A b"], "malformed"),
        ([": b"], "malformed"),
        (["A: b\0"], "malformed"),
        (["A: b\x7f"], "malformed"),
        (["A: b\nC: d"], "malformed"),
        (["A: b\rC: d"], "malformed"),
        (["A(): b"], "malformed"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: list[str], reason: str) -> None:
    with pytest.raises(ParsingError, match=reason):
        parse_head(head(*lines))
    assert whole_request(ADJ, head(*lines)) is None


@pytest.mark.parametrize("coding", ["gzip", "identity", "chunkedd", "x"])
def test_other_transfer_codings_are_not_implemented(coding: str) -> None:
    with pytest.raises(TransferEncodingNotImplemented):
        parse_head(head(f"Transfer-Encoding: {coding}"))


def test_a_transfer_coding_needs_http_1_1() -> None:
    with pytest.raises(ParsingError, match=r"HTTP/1\.1"):
        parse_head(head("Transfer-Encoding: chunked", first="POST / HTTP/1.0"))


@pytest.mark.parametrize(
    "first",
    [
        "get / HTTP/1.1",
        "GET",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET / HTTP/x",
        "\0 / HTTP/1.1",
        "GET /\ta HTTP/1.1",
        "GET /a\0 HTTP/1.1",
        "GET /a\x7f HTTP/1.1",
        "GET /a\x0bb HTTP/1.1",
    ],
)
def test_malformed_request_lines_are_refused(first: str) -> None:
    with pytest.raises(ParsingError):
        parse_head(head(first=first))


def test_an_upgrade_is_not_taken_up() -> None:
    assert parse_head(head("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 3")).length == 3


def test_what_clients_make_up_is_not_all_kept() -> None:
    for number in range(parser.MAX_LINES + 10):
        parse_head(head(f"X-{number}: a", first=f"GET /{number} HTTP/1.1"))
    assert len(parser._lines) <= parser.MAX_LINES and len(parser._names) <= parser.MAX_NAMES
