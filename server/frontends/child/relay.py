"""Requests that a front end does not serve itself: relayed as HTTP, byte for byte, to the application in the scheduler.

Each gets a connection of its own, a socket pair whose other end goes to the scheduler through `door` with the client's
address (`send_peer`), so no other process can connect there. Method, target, headers in the client's spelling and body are
sent as they came; status, reason phrase, headers and body come back as the application made them, streams piece by piece.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import orjson

from ....core.errors import JitneyError, QueueFull
from ...http.dialect import is_kserve
from ...http.middleware.admission import Places
from ...http.retry import RETRY_AFTER, SECONDS
from ...http.torchserve.errors import problem
from ...http.torchserve.render import ENVELOPE, new_request_id, to_json
from ..peers import send_peer

log = logging.getLogger(__name__)

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

#: What a front end serves itself, whatever the method.
_SERVED = re.compile(
    r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer"
    r"|/(?:predictions|explanations)/[^/]+(?:/.*)?"
    r"|/v1/models/[^/]+:(?:predict|explain)/?",
    re.DOTALL,
)
#: Answered also where as many requests are relayed as may be.
_HEALTH = re.compile(r"/ping(?:/.*)?|/v2/health/.*", re.DOTALL)
#: Of the scheduler's answer, what belongs to its connection.
_CONNECTION = frozenset({"connection", "transfer-encoding", "date"})
_READ_BYTES = 1 << 18


def is_served(path: str) -> bool:
    """Whether a front end answers a percent-decoded path itself."""
    return _SERVED.fullmatch(path) is not None


class Doorway:
    """The WSGI application of a front end: `app` for what is served here, the scheduler for the rest.

    A relayed request keeps its thread until it is answered, so there is a `limit` to how many may be under way.
    """

    def __init__(self, app: App, door: socket.socket, limit: int) -> None:
        self._app, self._door = app, door
        self._places = Places(limit)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ["PATH_INFO"])
        if is_served(path):
            return self._app(environ, start_response)
        if _HEALTH.fullmatch(path):
            return self._relay(environ, start_response)
        try:
            self._places.enter()
        except QueueFull as error:
            return _refuse(environ, start_response, error)
        environ["jitney.at_end"].append(self._places.leave)
        return self._relay(environ, start_response)

    def _relay(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        ours, theirs = socket.socketpair()
        answer = RelayedAnswer(ours, environ["REQUEST_METHOD"])
        environ["jitney.on_disconnect"](answer.give_up)
        try:
            with theirs:
                send_peer(self._door, theirs, str(environ["REMOTE_ADDR"]), str(environ["REMOTE_PORT"]))
            answer.send(request_head(environ), environ["wsgi.input"].getbuffer())
            status, headers = answer.read_head()
            body = answer.body()
        except (OSError, EOFError, ValueError) as error:
            answer.close()
            if not answer.given_up:
                log.error("%s could not be relayed: %s", environ["PATH_INFO"], error)
            start_response("500 Internal Server Error", [("content-type", "text/plain")])
            return [b"Internal Server Error\n\nThe server encountered an unexpected internal server error"]
        if connection := next((value for name, value in headers if name.lower() == "connection"), ""):
            environ["jitney.connection"] = connection
        start_response(status, [(name, value) for name, value in headers if name.lower() not in _CONNECTION])
        return body


def request_head(environ: dict[str, Any]) -> bytes:
    """The request's head as the client wrote it; the framing of its body is what the headers say."""
    target = environ.get("REQUEST_URI") or quote(environ["PATH_INFO"].encode("latin-1"))
    lines = [f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"]
    lines += [f"{name}: {value}" for name, value in environ["jitney.headers"]]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


class RelayedAnswer:
    """The scheduler's answer to one request. `give_up` may be called by any thread, the rest by one at a time."""

    def __init__(self, sock: socket.socket, method: str) -> None:
        self._socket, self._method = sock, method
        self._buffer = b""
        self._length: int | None = None
        self._chunked = False
        self.given_up = False

    def send(self, head: bytes, body: memoryview) -> None:
        """Sends the request. Where the scheduler answers before it has read everything, its answer counts."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(head)
            if re.search(rb"\r\ntransfer-encoding:", head, re.IGNORECASE):
                if body:
                    self._socket.sendall(b"%x\r\n" % len(body))
                    self._socket.sendall(body)
                    self._socket.sendall(b"\r\n")
                self._socket.sendall(b"0\r\n\r\n")
            elif body:
                self._socket.sendall(body)

    def give_up(self) -> None:
        """The client is gone: the scheduler learns it as it would from the client."""
        self.given_up = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def read_head(self) -> tuple[str, list[tuple[str, str]]]:
        """Status with its phrase, and headers. EOFError where the scheduler says nothing more."""
        status = "100"
        while status.startswith("1"):
            first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = first.partition(" ")[2]
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        for name, value in headers:
            self._length = int(value) if name.lower() == "content-length" else self._length
            self._chunked = self._chunked or name.lower() == "transfer-encoding"
        if self._method == "HEAD" or status.startswith(("204", "304")):
            self._length = 0
        return status, headers

    def body(self) -> Iterable[bytes]:
        """A list where it is complete, a stream that blocks otherwise."""
        if self._length is None:
            return self._stream()
        data = self._exactly(self._length)
        self.close()
        return [data] if data else []

    def _stream(self) -> Iterator[bytes]:
        """Raises EOFError where the scheduler cuts it off, so that the client's connection is cut off too."""
        try:
            if not self._chunked:
                yield from self._rest()
                return
            while size := int(self._until(b"\r\n"), 16):
                yield self._exactly(size)
                self._exactly(2)
        except (EOFError, OSError):
            if not self.given_up:
                raise
        finally:
            self.close()

    def _rest(self) -> Iterator[bytes]:
        data, self._buffer = self._buffer, b""
        while data or (data := self._socket.recv(_READ_BYTES)):
            yield data
            data = b""

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._buffer += self._receive()
        found, self._buffer = self._buffer.split(mark, 1)
        return found

    def _exactly(self, count: int) -> bytes:
        pieces, have = [self._buffer], len(self._buffer)
        while have < count:
            pieces.append(self._receive())
            have += len(pieces[-1])
        data = b"".join(pieces)
        self._buffer = data[count:]
        return data[:count]

    def _receive(self) -> bytes:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise EOFError("the connection to the scheduler ended")
        return data


def _refuse(environ: dict[str, Any], start_response: StartResponse, error: JitneyError) -> Iterable[bytes]:
    """Answers in the dialect of the path."""
    headers = [("content-type", "application/json"), (RETRY_AFTER, SECONDS)]
    if is_kserve(str(environ["PATH_INFO"])):
        body = orjson.dumps({"error": str(error)})
    else:
        body = to_json(problem(error)._asdict())
        headers += [*ENVELOPE.items(), ("x-request-id", new_request_id())]
        environ["jitney.connection"] = "close"
    start_response("503 Service Unavailable", headers)
    return [body]
