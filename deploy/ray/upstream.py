"""One HTTP/1.1 connection to a jitney, on asyncio: it tells apart what was never sent from what may have run.

A library's client would send some requests again by itself where a kept connection turns out to be closed, PUT among them, which
here is an inference.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import httptools

#: Of one hop's own (RFC 9110, 7.6.1); a proxy doesn't pass them on.
HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
_HIGH = 1 << 20  # bytes of an answer that are held before the socket is read no further


class Lost(ConnectionError):
    """The connection ended, or was given up, before its answer was complete."""


@dataclass
class Head:
    status: int
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    length: int | None = None


class Connection(asyncio.Protocol):
    """Requests one after the other; `send`, `head` and `chunks` belong to the one that runs."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: Exception | None = None
        self._close_after = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._begin(b"GET")

    @classmethod
    async def open(cls, host: str, port: int, timeout: float) -> Connection:
        """Raises OSError or TimeoutError: nothing has been sent then."""
        async with asyncio.timeout(timeout):
            _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    # One request

    def start(self, method: bytes) -> None:
        """Before a request is sent."""
        self._begin(method)

    async def send(self, data: bytes) -> None:
        """Raises Lost where the connection has ended."""
        if self._transport is None or self._error is not None:
            raise self._error or Lost("it is not connected")
        self._transport.write(data)
        await self._writable.wait()
        if self._error is not None:
            raise self._error

    @property
    def answered(self) -> bool:
        """Whether the answer has begun; a server may refuse a body before it is there."""
        return self._has_head

    async def head(self) -> Head:
        while not self._has_head:
            await self._news()
        return self._head

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they come; raises Lost where it breaks off."""
        while True:
            while self._body:
                chunk = self._body.popleft()
                self._held -= len(chunk)
                if self._held < _HIGH and self._transport is not None:
                    self._transport.resume_reading()
                yield chunk
            if self._complete:
                return
            await self._news()

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    @property
    def reusable(self) -> bool:
        alive = self._transport is not None and not self._transport.is_closing() and self._error is None
        return alive and self._complete and not self._close_after and not self._body

    def give_up(self, error: Exception) -> None:
        """What waits for this connection raises `error`; the server sees that nobody waits any more."""
        self._error = self._error or error
        self.close()
        self._wake()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class has the same methods

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.give_up(Lost(f"it sent something that is no HTTP answer: {error}"))
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._has_head and self._until_close and self._error is None and exc is None:
            self._complete = True
        self._error = self._error or Lost("it closed the connection" if exc is None else str(exc))
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like come before the answer
            self._headers = []
            return
        names = {name.lower(): value for name, value in self._headers}
        length = names.get(b"content-length")
        self._head = Head(status, self._headers, int(length) if length is not None else None)
        self._has_head = True
        empty = self._method == b"HEAD" or status in (204, 304)
        self._until_close = not empty and length is None and b"transfer-encoding" not in names
        self._close_after = not self._parser.should_keep_alive() or self._until_close
        if self._method == b"HEAD":  # the parser would wait for the body that the length speaks of
            self._complete = self._close_after = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._held += len(body)
        if self._held > _HIGH and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._has_head:
            self._complete = True

    # Inside

    def _begin(self, method: bytes) -> None:
        self._method = method
        self._headers = []
        self._head, self._has_head, self._complete, self._until_close = Head(0), False, False, False
        self._body: deque[bytes] = deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
