"""A server that behaves as a jitney in trouble does, and a client that calls an ASGI application as Ray does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jitney.deploy.ray.balancer import Balancer
from jitney.deploy.ray.ingress import Ingress
from jitney.deploy.ray.record import Record


@dataclass
class Asked:
    """One request as it reached a backend."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""


Behaviour = Callable[[Asked, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


async def answer(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Echoes the body; the connection stays."""
    writer.write(
        b"HTTP/1.1 200 OK\r\nDate: now\r\nX-Kept: Yes\r\nContent-Length: %d\r\n\r\n%b" % (len(asked.body), asked.body)
    )
    return True


async def die(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Ends with the request, unanswered."""
    return False


async def freeze(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Reads, and never answers."""
    await reader.read()
    return False


async def die_within(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Ends in the middle of its answer."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    return False


@dataclass
class Backend:
    """Pings are answered as requests are."""

    behaviour: Behaviour
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    repeatable: tuple[str, ...] = ("digits",)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await self._read(reader)) is not None:
                behaviour = self.behaviour
                if "/v2/health/live" not in asked.line:
                    self.asked.append(asked)
                elif behaviour is not freeze:
                    behaviour = answer
                if not await behaviour(asked, reader, writer):
                    break
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Asked | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head[1:-2])]
        asked = Asked(head[0], headers)
        if length := dict(headers).get("content-length"):
            asked.body = await reader.readexactly(int(length))
        elif dict(headers).get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                asked.body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        return asked


@contextlib.asynccontextmanager
async def ingress_to(
    *backends: Backend, patience: float = 0.3, wait: float = 0.5
) -> AsyncIterator[tuple[Ingress, Balancer]]:
    """An ingress that knows the backends by the names 0, 1, …"""
    async with contextlib.AsyncExitStack() as stack:
        balancer = Balancer(patience)
        for backend in backends:
            server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            backend.port = server.sockets[0].getsockname()[1]
        balancer.update(
            {
                str(number): Record("127.0.0.1", backend.port, ready=True, repeatable=backend.repeatable)
                for number, backend in enumerate(backends)
            }
        )
        yield Ingress(balancer, wait), balancer
        balancer.update({})


@dataclass
class Answered:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


async def ask(
    ingress: Ingress,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    method: str = "POST",
    headers: Iterable[tuple[bytes, bytes]] = (),
    root: str = "",
    query: bytes = b"",
) -> Answered:
    """A list of pieces is sent as it comes, without its length."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    lengths = [(b"content-length", b"%d" % len(body))] if isinstance(body, bytes) and body else []
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": root, "query_string": query,
        "headers": [(b"host", b"models.example"), *lengths, *headers],
    }  # fmt: skip
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False
    answered = Answered()

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answered.chunks += [message["body"]] if message["body"] else []

    await asyncio.wait_for(ingress(scope, receive, send), 10)
    return answered
