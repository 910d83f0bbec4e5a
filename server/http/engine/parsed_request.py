"""`ParsedRequest`: a request as it arrives, piece by piece; the `parser` reads its head, a receiver of `body` what follows."""

from __future__ import annotations

import io
import re

from waitress.adjustments import Adjustments
from waitress.parser import ParsingError, TransferEncodingNotImplemented
from waitress.utilities import (
    BadRequest,
    Error,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    ServerNotImplemented,
)

from .body import BodyStream, ChunkedReceiver, FixedReceiver, Receiver
from .parser import END, RequestHead, parse_head, parse_line

#: How a head ends whose lines have no CR; not how one ends that is as it should be.
_BARE_END = re.compile(rb"(?<!\r)\n\r?\n|\n\n")


def _bare_end(data: bytes, start: int = 0) -> BadRequest | None:
    """What is wrong where the head, or what has come of it, has an end whose lines end with LF alone; from `start` on."""
    blank = len(data) - len(data.lstrip())
    found = _BARE_END.search(data, max(blank, start))
    return BadRequest("the lines of the head end with LF, expected CR LF") if found else None


class ExpectationFailed(Error):  # type: ignore[misc]
    """The client expects something that is not `100-continue`."""

    code = 417
    reason = "Expectation Failed"


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
        end = whole.find(END, max(0, before - len(END))) + len(END)
        limit = self._adj.max_request_header_size
        if max(end, len(whole) * (end < len(END))) >= limit:
            self._fail(_bare_end(whole[:limit]) or RequestHeaderFieldsTooLarge(f"exceeds max_header of {limit}"))
            return len(data)
        if end < len(END):
            self._partial = whole
            if bare := _bare_end(whole, before - 2):  # its sender waits for the answer and sends nothing more
                self._begin(whole.lstrip() + END)  # whose line says which route refuses it
                self._fail(bare)
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
            self._fail(_bare_end(data) or BadRequest(str(error)))
        except TransferEncodingNotImplemented as error:
            self._fail(_bare_end(data) or ServerNotImplemented(str(error)))
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
    end = data.find(END) + len(END)
    if end < len(END) or end >= adj.max_request_header_size or data[0] <= 32:
        return None
    try:
        head = parse_head(data[:end])
    except (ParsingError, TransferEncodingNotImplemented):
        return None
    if head.chunked or head.length != len(data) - end or "expect" in head.fields or head.length >= adj.max_request_body_size:
        return None
    return head, data[end:]
