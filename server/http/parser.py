"""HTTP requests as waitress parses them, with what it leaves out: the client's spelling of header names, and no ambiguity.

A request whose end two programs could see in different places is refused, since the one in front of us may see it elsewhere
(request smuggling): both lengths at once, several of one kind, a transfer coding in HTTP/1.0, anything but plain `chunked`,
folded lines.
"""

from __future__ import annotations

from typing import Any

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser, ParsingError, get_header_lines
from waitress.utilities import Error

from .express import Route, Shortcut
from .receiver import ChunkedReceiver, FixedReceiver, Receiver
from .rules import decoded, host_problem, path_of

#: Heads of requests that are kept in parsed form: how many in one listener, and the bytes of the longest.
MAX_KEPT, MAX_KEPT_BYTES = 512, 4096
#: What belongs to a single request, and not to its head.
_OWN = frozenset({"adj", "body_rcv", "completed", "head", "header_plus"})


class Head:
    """A parsed head, read by all requests that have the same bytes: nobody changes what is in it.

    It stands in for the parser of a request that takes the short way (`express`).

    state    the parser's attributes
    environ  what they are in WSGI, None until the first request has gone through
    route    the short way, None where there is none; only known once `routed`; `shortcut` likewise
    """

    error = None

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.environ: dict[str, Any] | None = None
        self.route: Route | None = None
        self.routed = False
        self.shortcut: Shortcut | None = None
        self.command, self.path, self.version = str(state["command"]), str(state["path"]), str(state["version"])
        self.headers: dict[str, str] = state["headers"]
        self.raw_headers: list[tuple[str, str]] = state["raw_headers"]
        self.length = int(state["content_length"])
        self.keeps_open = keeps_open(self.version, self.headers.get("CONNECTION"))

    def close(self) -> None:
        """Nothing to release."""


def keeps_open(version: str, wish: str | None) -> bool:
    """Whether the client wants the connection to go on after the answer."""
    if wish is None:
        return version == "1.1"
    tokens = [token.strip() for token in wish.lower().split(",")]
    return "close" not in tokens if version == "1.1" else "keep-alive" in tokens


class ExpectationFailed(Error):  # type: ignore[misc]
    """The client expects something that is not `100-continue`."""

    code = 417
    reason = "Expectation Failed"


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """One request. `raw_headers` are (name, value) as sent."""

    body_rcv: Receiver | None
    completed: bool
    error: Error | None
    expect_continue: bool
    chunked: bool

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.raw_headers: list[tuple[str, str]] = []
        self.head: Head | None = None

    @property
    def limit(self) -> int:
        return int(self.adj.max_request_body_size) - 1

    def received(self, data: bytes) -> int:
        """Takes what belongs to this request and returns how many bytes that was."""
        if self.body_rcv is None or self.completed:
            if not self.header_plus and (end := data.find(b"\r\n\r\n") + 4) > 3:
                head = self.adj.heads.get(data[:end])
                if head is not None:
                    return end + self._adopt(head, memoryview(data)[end:])
            consumed: int = super().received(data)
            if self.error or self.completed:
                self.expect_continue = False  # the answer follows at once
            return consumed
        consumed = self.body_rcv.received(data)
        self.error = self.body_rcv.error
        self.completed = self.body_rcv.completed or self.error is not None
        if self.completed and self.chunked:
            self.headers["CONTENT_LENGTH"] = str(len(self.body_rcv))
        return consumed

    def _adopt(self, head: Head, rest: memoryview) -> int:
        """Takes a head that was parsed before, and what is there of the body; returns how much of it."""
        self.__dict__.update(head.state)
        self.head, self.headers_finished = head, True
        if not self.content_length:
            self.completed = True
            return 0
        self.body_rcv = FixedReceiver(self.content_length)
        used = self.body_rcv.received(rest)
        self.error = self.body_rcv.error
        self.completed = self.body_rcv.completed or self.error is not None
        return used

    def _remember(self, header_plus: bytes) -> None:
        """Keeps a parsed head for the requests that begin with the same bytes, which is most of them."""
        usual = not (self.error or self.chunked or self.expect_continue) and self.content_length <= self.limit
        if usual and len(header_plus) <= MAX_KEPT_BYTES:
            if len(self.adj.heads) >= MAX_KEPT:
                self.adj.heads.clear()
            state = {name: value for name, value in vars(self).items() if name not in _OWN}
            self.head = self.adj.heads[header_plus] = Head(state)

    def parse_header(self, header_plus: bytes) -> None:
        if b"\r\n " in header_plus or b"\r\n\t" in header_plus:
            raise ParsingError("a header line is folded")
        lines = get_header_lines(header_plus.partition(b"\r\n")[2])
        self.raw_headers = [_split(line) for line in lines]
        lengths, encodings = self._values("content-length"), self._values("transfer-encoding")
        _refuse_ambiguity(lengths, encodings)
        super().parse_header(header_plus)
        if problem := host_problem(str(self.version), self._values("host")):
            raise ParsingError(problem)
        if "%2f" in (uri := str(self.request_uri)).lower():
            self.path = decoded(path_of(uri))
        if encodings and self.version != "1.1":
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")
        if self.chunked:
            self.body_rcv = ChunkedReceiver(self.limit)
        elif self.content_length > 0:
            self.body_rcv = FixedReceiver(self.content_length)
        if self.version == "1.1" and self._values("expect") and not self.expect_continue:
            self.error = ExpectationFailed("only 'Expect: 100-continue' is understood")
            self.completed = True
        self._remember(header_plus)

    def _values(self, name: str) -> list[str]:
        return [value for key, value in self.raw_headers if key.lower() == name]


def _split(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("latin-1"), value.strip(b" \t").decode("latin-1")


def _refuse_ambiguity(lengths: list[str], encodings: list[str]) -> None:
    if lengths and encodings:
        raise ParsingError("Content-Length and Transfer-Encoding exclude each other")
    if len(lengths) > 1:
        raise ParsingError("Content-Length was sent more than once")
    if len(encodings) > 1 or any("," in encoding for encoding in encodings):
        raise ParsingError("only one Transfer-Encoding, 'chunked', is understood")
