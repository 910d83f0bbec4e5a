"""HTTP requests, read strictly: the request line by waitress' grammar, headers by llhttp (`httptools`), bodies by `receiver`.

A request whose end two programs could see in different places is refused, since the one in front of us may see it elsewhere
(request smuggling): both lengths at once, several of one kind, a transfer coding in HTTP/1.0, anything but plain `chunked`,
folded lines.
"""

from __future__ import annotations

import io
import re

import httptools
from waitress.adjustments import Adjustments
from waitress.parser import ParsingError, TransferEncodingNotImplemented, crack_first_line, split_uri
from waitress.utilities import (
    BadRequest,
    Error,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    ServerNotImplemented,
)

from ..rules import decoded, host_problem, path_of
from .body import BodyStream, ChunkedReceiver, FixedReceiver, Receiver

#: Request lines, names of headers and hosts that are kept in parsed form: clients repeat them, whatever else differs.
MAX_LINES, MAX_NAMES, MAX_HOSTS = 1024, 1024, 256
#: What llhttp reads in place of the request line, which is parsed here.
_LINE = b"POST / HTTP/1.1\r\n"
_END = b"\r\n\r\n"
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_ONE_CODING = "only one Transfer-Encoding, 'chunked', is understood"


class ExpectationFailed(Error):  # type: ignore[misc]
    """The client expects something that is not `100-continue`."""

    code = 417
    reason = "Expectation Failed"


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
    fields      the same by lower-case name; values of repeated ones joined by ", "; names with underscores left out, since in
                WSGI they could be taken for others
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
        if counts:
            fields[key] = f"{fields[key]}, {value}" if key in fields else value
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


class ParsedRequest:
    """One request as it arrives. The attributes from `command` on are what waitress' tasks ask of a parser.

    head      None until the head is there, or where it was malformed
    line      its request line, also where what follows is malformed: the refusal is in the dialect of the path
    body      what has arrived of the body
    error     why the request is refused; nothing of it is consumed after that
    empty     blank lines, and no request
    """

    empty = expect_continue = False
    error: Error | None = None
    _receiver: Receiver | None = None
    _partial = b""

    def __init__(self, adj: Adjustments, head: RequestHead | None = None, body: bytes = b"") -> None:
        """A request of which nothing has arrived yet, or with `head` a whole one."""
        self._adj, self.head, self._body = adj, head, body
        self.line = head.line if head is not None else None
        self.completed = head is not None

    @property
    def body(self) -> bytes | bytearray:
        return self._body if self._receiver is None else self._receiver.body

    def take_body(self) -> bytes | memoryview:
        """The body, which this object then lets go of."""
        body = self._body if self._receiver is None else memoryview(self._receiver.body)
        self._receiver, self._body = None, b""
        return body

    @property
    def _limit(self) -> int:
        return int(self._adj.max_request_body_size) - 1

    def received(self, data: bytes) -> int:
        """Takes what belongs to this request and returns how many bytes that was."""
        if self.completed:
            return 0
        if self._receiver is None:
            return self._receive_head(data)
        taken = self._receiver.received(data)
        self.error = self._receiver.error
        self.completed = self._receiver.completed or self.error is not None
        return taken

    def _receive_head(self, data: bytes) -> int:
        whole, before = self._partial + data, len(self._partial)
        end = whole.find(_END, max(0, before - len(_END))) + len(_END)
        limit = self._adj.max_request_header_size
        if max(end, len(whole) * (end < len(_END))) >= limit:
            self._fail(RequestHeaderFieldsTooLarge(f"exceeds max_header of {limit}"))
            return len(data)
        if end < len(_END):
            self._partial = whole
            return len(data)
        self._partial = b""
        head = whole[:end].lstrip()  # clients may send an empty line after a request (RFC 9112, 2.2)
        if head:
            self._begin(head)
        else:
            self.empty = self.completed = True
        return end - before

    def _begin(self, data: bytes) -> None:
        try:
            self.line, _ = parse_line(data)
            head = self.head = parse_head(data)
        except ParsingError as error:
            self._fail(BadRequest(str(error)))
        except TransferEncodingNotImplemented as error:
            self._fail(ServerNotImplemented(str(error)))
        else:
            self._expect_body(head)

    def _expect_body(self, head: RequestHead) -> None:
        """Gets ready for the body that the head announces, and refuses one that is too long."""
        self.expect_continue = head.expectation == "100-continue"
        if head.expectation and not self.expect_continue:
            self._fail(ExpectationFailed("only 'Expect: 100-continue' is understood"))
        elif head.length > self._limit:
            self._fail(RequestEntityTooLarge(f"exceeds max_body of {self._adj.max_request_body_size}"))
        elif head.chunked:
            self._receiver = ChunkedReceiver(self._limit)
        elif head.length:
            self._receiver = FixedReceiver(head.length)
        else:
            self.completed = True
            self.expect_continue = False

    def _fail(self, error: Error) -> None:
        self.error, self.completed, self.expect_continue = error, True, False

    # -- for waitress ------------------------------------------------------------------------------------------------------

    @property
    def command(self) -> str:
        return self.line.command if self.line is not None else ""

    @property
    def path(self) -> str:
        return self.line.path if self.line is not None else ""

    @property
    def version(self) -> str:
        return self.line.version if self.line is not None else "1.0"

    @property
    def query(self) -> str:
        return self.line.query if self.line is not None else ""

    @property
    def request_uri(self) -> str:
        return self.line.target if self.line is not None else ""

    @property
    def url_scheme(self) -> str:
        return str(self._adj.url_scheme)

    @property
    def headers(self) -> dict[str, str]:
        """By WSGI's names without HTTP_; a chunked body's length is told as if it had been announced."""
        if self.head is None:
            return {}
        headers = {name.upper().replace("-", "_"): value for name, value in self.head.fields.items()}
        if self.head.chunked:
            headers["CONTENT_LENGTH"] = str(len(self.body))
        return headers

    @property
    def headers_finished(self) -> bool:
        return self.head is not None or self.error is not None

    def get_body_stream(self) -> io.RawIOBase:
        return BodyStream(self.body)

    def close(self) -> None:
        """Lets go of the body; views of it may outlive the request."""
        if self._receiver is not None:
            self._receiver.close()


def whole_request(adj: Adjustments, data: bytes) -> tuple[RequestHead, bytes] | None:
    """Head and body of the one request that this data is; None where it is more or less, or may have to be refused."""
    end = data.find(_END) + len(_END)
    if end < len(_END) or end >= adj.max_request_header_size or data[0] <= 32:
        return None
    try:
        head = parse_head(data[:end])
    except (ParsingError, TransferEncodingNotImplemented):
        return None
    if head.chunked or head.length != len(data) - end or "expect" in head.fields or head.length >= adj.max_request_body_size:
        return None
    return head, data[end:]
