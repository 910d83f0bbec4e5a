"""The heads of HTTP requests, read strictly: the request line by waitress' grammar, headers by llhttp (`httptools`).

A request whose end two programs could see in different places is refused, since the one in front of us may see it elsewhere
(request smuggling): both lengths at once, several of one kind, a transfer coding in HTTP/1.0, anything but plain `chunked`,
folded lines.
"""

from __future__ import annotations

import re

import httptools
from waitress.parser import ParsingError, TransferEncodingNotImplemented, crack_first_line, split_uri

from ..rules import decoded, host_problem, path_of

#: Request lines, names of headers and hosts that are kept in parsed form: clients repeat them, whatever else differs.
MAX_LINES, MAX_NAMES, MAX_HOSTS = 1024, 1024, 256
#: What llhttp reads in place of the request line, which is parsed here.
_LINE = b"POST / HTTP/1.1\r\n"
#: What ends a head.
END = b"\r\n\r\n"
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_ONE_CODING = "only one Transfer-Encoding, 'chunked', is understood"


class RequestLine:
    """A parsed request line; requests that begin with the same bytes share it.

    target   as sent
    route    command and target without the query: what a route is found by
    path     percent-decoded bytes as latin-1 (WSGI's form) but for %2F, without scheme and host, with one slash at its beginning
    version  "1.1", "1.0", or what else was sent; "" for none
    """

    __slots__ = ("command", "has_escapes", "path", "query", "route", "target", "version")

    def __init__(self, line: bytes) -> None:
        if b"\r" in line or b"\n" in line:
            raise ParsingError("Bare CR or LF found in HTTP message")
        if _CONTROL.search(line):  # a tab is a blank to some programs
            raise ParsingError("a control character in the request line")
        command, target, version = crack_first_line(line.rstrip())
        if not command:
            raise ParsingError("Start line is invalid")
        self.command, self.target, self.version = (part.decode("latin-1") for part in (command, target, version))
        self.has_escapes = "%" in self.target
        self.route = f"{self.command} {self.target.partition('?')[0]}"
        self.query: str = split_uri(target)[3]
        path = decoded(path_of(self.target)) if self.target != "*" else "*"
        self.path = "/" + path.lstrip("/") if path.startswith("/") else path


class RequestHead:
    """What came before the body.

    pairs       headers as (name, value), in the client's spelling and order
    fields      the same by lower-case name; values of repeated ones joined by ", ", but for Content-Type, of which the first
                counts (Netty); names with underscores left out, since in WSGI they could be taken for others
    length      bytes of the body by Content-Length, 0 where there is none
    """

    __slots__ = ("chunked", "fields", "keeps_open", "length", "line", "pairs")

    def __init__(self, line: RequestLine, pairs: list[tuple[str, str]], fields: dict[str, str]) -> None:
        self.line, self.pairs, self.fields = line, pairs, fields
        self.chunked = False
        self.length = 0
        self.keeps_open = keeps_open(line.version, fields.get("connection"))
        if "transfer-encoding" in fields:
            self._read_coding(fields.pop("transfer-encoding"))
        elif length := fields.get("content-length"):
            self.length = int(length)

    def _read_coding(self, coding: str) -> None:
        if self.line.version != "1.1":
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")
        if "," in coding:
            raise ParsingError(_ONE_CODING)
        if coding.lower() != "chunked":
            raise TransferEncodingNotImplemented("Transfer-Encoding requested is not supported.")
        self.chunked = True

    @property
    def expectation(self) -> str:
        """What the client waits for before it sends the body, in lower case; "" for nothing."""
        return self.fields.get("expect", "").lower() if self.line.version == "1.1" else ""


def keeps_open(version: str, wish: str | None) -> bool:
    """Whether the client wants the connection to go on after the answer."""
    if wish is None:
        return version == "1.1"
    tokens = [token.strip() for token in wish.lower().split(",")]
    return "close" not in tokens if version == "1.1" else "keep-alive" in tokens


_lines: dict[bytes, RequestLine] = {}
_names: dict[bytes, tuple[str, str, bool]] = {}
_hosts: set[str] = set()  # values of `Host` that are as they should be


class _Headers:
    """What llhttp calls back."""

    __slots__ = ("raw",)

    def __init__(self) -> None:
        self.raw: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.raw.append((name, value))


def parse_head(data: bytes) -> RequestHead:
    """Reads a head that ends with an empty line.

    ParsingError for what is malformed or ambiguous, TransferEncodingNotImplemented for codings other than chunked.
    """
    line, end = parse_line(data)
    headers = _Headers()
    try:
        httptools.HttpRequestParser(headers).feed_data(_LINE + data[end + 2 :])
    except httptools.HttpParserUpgrade:
        pass  # nothing is upgraded: the request is served as it is
    except httptools.HttpParserError as error:
        _refuse(data, str(error))
    pairs: list[tuple[str, str]] = []
    fields: dict[str, str] = {}
    for raw_name, raw_value in headers.raw:
        name, key, counts = _names.get(raw_name) or _name(raw_name)
        value = raw_value.decode("latin-1").rstrip(" \t")
        pairs.append((name, value))
        if key not in fields:
            if counts:
                fields[key] = value
        elif key != "content-type":
            fields[key] = f"{fields[key]}, {value}"
    head = RequestHead(line, pairs, fields)
    if fields.get("host") not in _hosts:
        _check_host(line.version, pairs)
    return head


def parse_line(data: bytes) -> tuple[RequestLine, int]:
    """Reads the request line that a head begins with, and says where it ends; ParsingError where it is malformed."""
    end = data.index(b"\r\n")
    raw = data[:end]
    return _lines.get(raw) or _line(raw), end


def _check_host(version: str, pairs: list[tuple[str, str]]) -> None:
    hosts = [value for name, value in pairs if name.lower() == "host"]
    if problem := host_problem(version, hosts):
        raise ParsingError(problem)
    if hosts:
        if len(_hosts) >= MAX_HOSTS:
            _hosts.clear()
        _hosts.add(hosts[0])


def _line(raw: bytes) -> RequestLine:
    if len(_lines) >= MAX_LINES:
        _lines.clear()
    found = _lines[raw] = RequestLine(raw)
    return found


def _name(raw: bytes) -> tuple[str, str, bool]:
    """A header's name as sent and in lower case, and whether it is one of `RequestHead.fields`."""
    if len(_names) >= MAX_NAMES:
        _names.clear()
    name = raw.decode("latin-1")
    found = _names[raw] = name, name.lower(), "_" not in name
    return found


def _refuse(data: bytes, reason: str) -> None:
    """Says what is wrong with headers that llhttp refused; where that is the body's framing, in terms of it."""
    if b"\r\n " in data or b"\r\n\t" in data:
        raise ParsingError("a header line is folded")
    names: dict[bytes, list[bytes]] = {}
    for line in data.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        names.setdefault(name.strip().lower(), []).append(value)
    lengths, codings = names.get(b"content-length", []), names.get(b"transfer-encoding", [])
    if lengths and codings:
        raise ParsingError("Content-Length and Transfer-Encoding exclude each other")
    if len(lengths) > 1:
        raise ParsingError("Content-Length was sent more than once")
    if len(codings) > 1 or any(b"," in coding for coding in codings):
        raise ParsingError(_ONE_CODING)
    if codings and "Transfer-Encoding" in reason:
        raise TransferEncodingNotImplemented("Transfer-Encoding requested is not supported.")
    raise ParsingError(f"the headers are malformed: {reason}")
