"""`Visit`: one request on the event loop of a granian listener, from its head to the end of its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from waitress.utilities import BadRequest, Error, RequestEntityTooLarge, RequestHeaderFieldsTooLarge

from .granian_trip import GranianTrip
from .later import Answer, Later
from .listeners import MAX_HEADER_BYTES
from .parser import ExpectationFailed
from .receiver import MAX_CHUNKS, BodyStream
from .travel import LIGHT_BYTES

if TYPE_CHECKING:
    from .granian_listener import GranianListener

log = logging.getLogger(__name__)

_WHOLE = frozenset({"content-type", "content-length"})


class Visit:
    """One request from its head to the end of its answer. All methods are for the loop's thread unless they say otherwise."""

    def __init__(self, front: GranianListener, scope: Any, protocol: Any) -> None:
        self.front, self.scope, self.protocol = front, scope, protocol
        self.headers: list[tuple[str, str]] = scope.headers.items()
        self.at_end: list[Callable[[], None]] = []
        self.later = Later(self._wake)
        self.environ: dict[str, Any] = {}
        self.gone: Callable[[], object] | None = None
        self._woken = self._left = False
        self._sleeper: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._answer: Answer = ("500 Internal Server Error", [], [])

    async def serve(self) -> None:
        try:
            await self._serve()
        finally:
            self.front.waiting.pop(self, None)
            if self._watcher is not None:
                self._watcher.cancel()
            self.gone = None
            for callback in self.at_end:
                callback()
            self.later.forget()

    async def _serve(self) -> None:
        key, head = self.front.heads.find(self.scope)
        if head is not None and head.shortcut is not None and head.shortcut.is_quick():
            body = await self.protocol() if head.length else b""
            if not await GranianTrip(self.front, self, head, body).travel(head.shortcut):
                await self._respond(body)
            return
        error, whole = await self._read()
        if error is None:
            await self._respond(whole)
            if key is not None and head is None:
                self.front.heads.remember(key, self.environ, len(whole))
            return
        status, headers, refusal = self.front.refuse(self.scope.path, error)
        self._answer = status, headers, [refusal]
        self._send(close=True)

    def use(self, body: bytes | bytearray) -> dict[str, Any]:
        """The environ of this request, with this body."""
        self.environ = self._make_environ(body)
        return self.environ

    async def send(self, answer: Answer) -> None:
        """Sends an answer, as a stream where it is one."""
        self._answer = answer
        if isinstance(answer[2], list):
            self._send(close=False)
        else:
            self.front.wait_with(self)
            await self.front.in_pool(self._stream)

    async def _respond(self, body: bytes | bytearray) -> None:
        front = self.front
        self.use(body)
        path = self.environ["PATH_INFO"]
        waits_here = self.scope.method == "HEAD"  # for its model, where it is served
        if front.quick is not None and not waits_here and front.quick(path, _Names(self.environ), len(body)):
            front.gather()
            self._call()
        else:
            front.wait_with(self)
            await front.in_pool(self._call)
        if self.later.claimed:
            await self._wait()
            if self.later.size() <= LIGHT_BYTES:
                self._conclude()
            else:
                await front.in_pool(self._conclude)
        await self.send(self._answer)

    # -- the request -------------------------------------------------------------------------------------------------------

    async def _read(self) -> tuple[Error | None, bytes | bytearray]:
        """The body; or what is wrong with the request."""
        length, chunked, error = _framing(self.headers, self.front.max_body)
        if error is None and chunked:
            return await self._read_chunks()
        if error is not None or not length:
            return error, b""
        return None, await self.protocol()

    async def _read_chunks(self) -> tuple[Error | None, bytes | bytearray]:
        body, count = bytearray(), 0
        async for chunk in self.protocol:
            body += chunk
            count += 1
            if len(body) > self.front.max_body:
                return RequestEntityTooLarge(f"the body has more than {self.front.max_body} bytes"), b""
            if count > MAX_CHUNKS:
                return RequestEntityTooLarge(f"the body has more than {MAX_CHUNKS} chunks"), b""
        return None, body

    def _make_environ(self, body: bytes | bytearray) -> dict[str, Any]:
        scope, environ = self.scope, self.front.environ.copy()
        host, _, port = scope.client.rpartition(":")
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = host, port
        environ["REQUEST_METHOD"] = scope.method
        environ["PATH_INFO"] = scope.path.encode("utf-8", "surrogateescape").decode("latin-1")
        if query := scope.query_string:  # the path is known in its decoded form only
            environ["QUERY_STRING"], environ["REQUEST_URI"] = query, f"{quote(scope.path)}?{query}"
        environ["SERVER_PROTOCOL"] = f"HTTP/{'1.0' if scope.http_version == '1' else scope.http_version}"
        environ["wsgi.input"] = BodyStream(body)
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            key = key if name in _WHOLE else f"HTTP_{key}"
            environ[key] = f"{environ[key]}, {value}" if key in environ else value
        if environ.pop("HTTP_TRANSFER_ENCODING", None):
            environ["CONTENT_LENGTH"] = str(len(body))
        environ["jitney.headers"] = [(name.title(), value) for name, value in self.headers]
        environ["jitney.on_disconnect"] = self.on_disconnect
        environ["jitney.at_end"] = self.at_end
        environ["jitney.later"] = self.later
        return environ

    # -- the answer --------------------------------------------------------------------------------------------------------

    def _call(self) -> None:
        """Runs the application, in this thread or in the pool's."""
        head: list[tuple[str, list[tuple[str, str]]]] = []
        try:
            body = self.front.app(self.environ, lambda status, headers, _=None: head.append((status, headers)))
            if not self.later.claimed:
                self._answer = (*head[-1], body)
        except Exception:
            log.exception("%s failed", self.scope.path)
            self._answer = _failure()

    def _conclude(self) -> None:
        """Renders an answer that came later, in this thread or in the pool's."""
        try:
            self._answer = self.later.conclude()
        except Exception:
            log.exception("%s failed", self.scope.path)
            self._answer = _failure()

    def _send(self, close: bool) -> None:
        status, headers, body = self._answer
        self.protocol.response_bytes(int(status[:3]), self._framed(headers, close), b"".join(body))

    def _framed(self, headers: list[tuple[str, str]], close: bool) -> list[tuple[str, str]]:
        """With what is to be said about the connection."""
        wanted = self.environ.get("jitney.connection")
        if close or wanted == "close" or self.front.draining or not self._client_keeps_open():
            return [*headers, ("connection", "close")]
        return [*headers, ("connection", "keep-alive")] if wanted or self.scope.http_version == "1" else headers

    def _client_keeps_open(self) -> bool:
        wish = self.scope.headers.get("connection", "").lower()
        tokens = [token.strip() for token in wish.split(",")] if wish else []
        return "close" not in tokens if self.scope.http_version != "1" else "keep-alive" in tokens

    def _stream(self) -> None:
        """Sends chunks as they come; a thread of the pool."""
        status, headers, body = self._answer
        transport: list[Any] = []
        try:
            for chunk in body:
                if self._left:
                    break
                if not transport:
                    self._begin_stream(int(status[:3]), headers, transport)
                if chunk:
                    asyncio.run_coroutine_threadsafe(_sent(transport[0], chunk), self.front.loop).result()
            if not transport:
                self._begin_stream(int(status[:3]), headers, transport)
        except Exception:
            log.exception("%s: a streamed answer ended early", self.scope.path)
        finally:
            transport.clear()  # granian ends the stream when nobody holds it, not even a traceback
            _close(body)

    def _begin_stream(self, status: int, headers: list[tuple[str, str]], transport: list[Any]) -> None:
        transport.append(self.protocol.response_stream(status, self._framed(headers, close=False)))

    # -- waiting -----------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until the model has answered."""
        if not self._woken:
            self._sleeper = self.front.loop.create_future()
            self.front.wait_with(self)
            await self._sleeper

    def _wake(self) -> None:
        """Any thread."""
        self.front.post(self._on_wake)

    def _on_wake(self) -> None:
        self._woken = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def watch(self) -> None:
        """Begins to look out for the client's end."""
        if self._watcher is None:
            self._watcher = self.front.loop.create_task(self._watch())

    async def _watch(self) -> None:
        await self.protocol.client_disconnect()
        self._left = True
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Has `callback` called if the client goes away; any thread."""
        self.gone = callback
        if self._left:
            callback()


class _Names:
    """The names of an environ's headers, as `Quick` asks for them."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ

    def __contains__(self, name: object) -> bool:
        return f"HTTP_{name}" in self._environ


def _framing(headers: Iterable[tuple[str, str]], max_body: int) -> tuple[int, bool, Error | None]:
    """(announced length, whether it comes in chunks, what is wrong). What is ambiguous in itself hyper has refused."""
    length, encodings, size = 0, [], 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == "content-length":
            length = int(value)
        elif name == "transfer-encoding":
            encodings.append(value)
        elif name == "expect" and value.lower() != "100-continue":
            return 0, False, ExpectationFailed("only 'Expect: 100-continue' is understood")
    if size >= MAX_HEADER_BYTES:
        return 0, False, RequestHeaderFieldsTooLarge(f"the headers have more than {MAX_HEADER_BYTES} bytes")
    if len(encodings) > 1 or any("," in encoding for encoding in encodings):
        return 0, False, BadRequest("only one Transfer-Encoding, 'chunked', is understood")
    if length > max_body:
        return length, False, RequestEntityTooLarge(f"exceeds max_body of {max_body}")
    return length, bool(encodings), None


def _failure() -> Answer:
    body = b"Internal Server Error\n\nThe server encountered an unexpected internal server error"
    return "500 Internal Server Error", [("content-type", "text/plain"), ("connection", "close")], [body]


async def _sent(transport: Any, chunk: bytes) -> None:
    await transport.send_bytes(bytes(chunk))


def _close(body: Any) -> None:
    if hasattr(body, "close"):
        body.close()
