"""The ingress: an ASGI application that passes each request to a jitney as it is, and its answer back.

A request that was not sent yet goes to another replica. One that may have run goes to another replica once if it may run twice
(`routes`) and its body was kept; else the client gets 503 and the reason. Answers stream; the short ones are read whole first, so
that they too can be had from another replica.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from .balancer import Balancer, Target
from .routes import repeatable
from .upstream import HOP, Connection, Head, Lost

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: A request's body up to this is kept until its answer begins.
KEPT_BODY = 16 << 20
#: An answer up to this is read whole before the client gets its head.
WHOLE_ANSWER = 1 << 20
#: uvicorn sets them.
_THEIRS = HOP | {b"date", b"server"}


@dataclass
class Request:
    """A request as it came. `body` is None where it is longer than what is kept; it comes from `rest` then, once."""

    method: str
    path: str
    head: bytes
    body: bytes | None
    rest: AsyncIterator[bytes]
    chunked: bool


class GivenUp(Exception):
    """The client gets 503 with this reason."""


class Ingress:
    """`wait_seconds`: how long a request waits for a replica where there is none."""

    def __init__(self, balancer: Balancer, wait_seconds: float) -> None:
        self._balancer, self._wait_seconds = balancer, wait_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            raise ValueError(f"expected an HTTP request, got {scope['type']}")
        request = await read_request(scope, receive)
        try:
            return await self._forward(request, send)
        except GivenUp as reason:
            return await _refuse(request, str(reason), send)

    async def _forward(self, request: Request, send: Send) -> None:
        tried: list[str] = []
        again = 1
        while True:
            target = await self._balancer.wait(tried, self._wait_seconds)
            if target is None:
                raise GivenUp(self._nobody(tried))
            tried.append(target.name)
            try:
                connection = await target.connect()
            except (OSError, TimeoutError) as error:
                self._balancer.down(target, error)
                continue
            try:
                return await self._exchange(request, target, connection, send)
            except Lost as error:
                why = _why_not(request, target, again)
                if why:
                    raise GivenUp(f"{target} was lost with the request ({error}), which may have run; {why}") from error
                again -= 1

    def _nobody(self, tried: list[str]) -> str:
        known = len(self._balancer.targets)
        of_these = f", {len(tried)} of which did not answer this request" if tried else ""
        return f"no replica has come up within {self._wait_seconds:g} s; {known} are known{of_these}"

    async def _exchange(self, request: Request, target: Target, connection: Connection, send: Send) -> None:
        """One try. Raises Lost where another one is possible: until the client has the head."""
        target.open += 1
        if _why_not(request, target, 1) == "":
            target.repeatable.add(connection)
        try:
            connection.start(request.method.encode("ascii"))
            head = await _ask(connection, request)
            whole = await connection.read() if head.length is not None and head.length <= WHOLE_ANSWER else None
            target.repeatable.discard(connection)
            await _answer(connection, head, whole, send)
        except BaseException:  # the client's leaving too: the server shall see it
            connection.close()
            raise
        finally:
            target.repeatable.discard(connection)
            target.open -= 1
            target.keep(connection)


def _why_not(request: Request, target: Target, again: int) -> str:
    """Why a request that may have run is not sent to another replica; "" where it is."""
    if not repeatable(request.method, request.path, target.record.repeatable):
        return "it is not known to be idempotent"
    if request.body is None:
        return f"its body is longer than the {KEPT_BODY} bytes that are kept"
    return "" if again else "it has been tried on two replicas"


async def _ask(connection: Connection, request: Request) -> Head:
    if request.body is not None:
        await connection.send(request.head + request.body)
        return await connection.head()
    await connection.send(request.head)
    try:
        async for chunk in request.rest:
            if connection.answered:
                break
            await connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if request.chunked else chunk)
        else:
            await connection.send(b"0\r\n\r\n" if request.chunked else b"")
    except Lost:
        if not connection.answered:
            raise
    return await connection.head()


async def _answer(connection: Connection, head: Head, whole: bytes | None, send: Send) -> None:
    headers = [(name.lower(), value) for name, value in head.headers if name.lower() not in _THEIRS]
    await send({"type": "http.response.start", "status": head.status, "headers": headers})
    if whole is not None:
        return await send({"type": "http.response.body", "body": whole})
    try:
        async for chunk in connection.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except Lost as error:
        raise ConnectionError(f"the replica was lost within its answer: {error}") from error
    return await send({"type": "http.response.body", "body": b""})


async def read_request(scope: Scope, receive: Receive) -> Request:
    """The request with as much of its body as is kept; raises ConnectionError where the client leaves within it."""
    kept, size, more = [], 0, True
    while more and size <= KEPT_BODY:
        chunk, more = await _chunk(receive)
        kept.append(chunk)
        size += len(chunk)
    body = b"".join(kept)
    path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    root = scope.get("root_path", "").rstrip("/").encode()
    if root and path.startswith(root):
        path = path[len(root) :] or b"/"
    query = b"?" + scope["query_string"] if scope.get("query_string") else b""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    head = [b"%b %b%b HTTP/1.1" % (scope["method"].encode("ascii"), path, query)]
    head += [b"%b: %b" % (name, value) for name, value in scope["headers"] if _passed(name)]
    chunked = more and not lengths
    if chunked:
        head.append(b"transfer-encoding: chunked")
    elif more:
        head.append(b"content-length: " + lengths[0])
    elif body or lengths:
        head.append(b"content-length: %d" % len(body))
    text = path.decode("latin-1")
    start = b"\r\n".join([*head, b"", b""])
    return Request(scope["method"], text, start, None if more else body, _rest(body, receive), chunked)


def _passed(name: bytes) -> bool:
    return name not in HOP and name not in (b"content-length", b"expect")


async def _rest(first: bytes, receive: Receive) -> AsyncIterator[bytes]:
    yield first
    more = True
    while more:
        chunk, more = await _chunk(receive)
        if chunk:
            yield chunk


async def _chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] != "http.request":
        raise ConnectionError("the client left before its request was complete")
    return message.get("body", b""), message.get("more_body", False)


async def _refuse(request: Request, reason: str, send: Send) -> None:
    """503 as the route's dialect has it, KServe's or TorchServe's."""
    error: dict[str, Any] = {"code": 503, "type": "ServiceUnavailableException", "message": reason}
    if request.path.startswith(("/v1/", "/v2/")):
        error = {"error": reason}
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error).encode()})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
