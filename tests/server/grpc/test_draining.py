"""How a front end's gRPC servers end: real servers of grpcio, and clients that send while they are told to go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from jitney.server.grpc import connections, draining
from jitney.server.grpc.draining import Bound, Drain
from jitney.server.grpc.open_calls import STOPPING, OpenCalls, Peer, named_peer
from jitney.server.grpc.options import options
from jitney.server.grpc.server import Router
from jitney.server.settings.settings import Settings
from jitney.tests.fakes.certificates import self_signed
from jitney.tests.server.grpc.test_hostile import (
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    header,
    text,
)

GOAWAY, END_STREAM, ACK, INITIAL_WINDOW = 7, 1, 1, 4
PATIENCE = 15.0
HEAD = b"\x83\x86\x04" + text(b"/test/Echo") + header(b":authority", b"x") + header(b"content-type", b"application/grpc")
HEAD += header(b"te", b"trailers")


async def echo(data: bytes, context: Any) -> bytes:
    """Answers with what came; `wait` and `long` first let the others go on for a while."""
    if data == b"wait":
        await asyncio.sleep(0.3)
    if data == b"long":
        await asyncio.sleep(2 * PATIENCE)
    return data


async def large(data: bytes, context: Any) -> bytes:
    return data * (16 << 20)


HANDLERS = {
    "/test/Echo": grpc.unary_unary_rpc_method_handler(echo),
    "/test/Large": grpc.unary_unary_rpc_method_handler(large),
}


@contextlib.asynccontextmanager
async def served(tls: Any = None, handlers: dict[str, Any] = HANDLERS) -> AsyncIterator[tuple[Bound, OpenCalls]]:
    calls = OpenCalls()
    given = options(Settings.load({}, {}, Path()), "triton")
    server = grpc.aio.server(handlers=[Router(handlers, calls)], options=given)
    port = server.add_secure_port("127.0.0.1:0", tls) if tls else server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Bound(server, port, tls is not None), calls
    finally:
        await server.stop(0)


class RawClient:
    """Speaks HTTP/2 by hand, so that a test decides what is sent after which frame was read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.window = 65_535  # of a new stream

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[RawClient]:
        """One that is closed at the end, if a test does not do so before."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        try:
            client.writer.write(PREFACE + frame(SETTINGS, 0, 0))
            await client.read_until(SETTINGS)
            yield client
        finally:
            with contextlib.suppress(ConnectionError):
                await client.close()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def read(self) -> tuple[int, int, bytes]:
        """Kind, stream and payload of the next frame. Settings and pings are acknowledged."""
        head = await self._reader.readexactly(9)
        kind, payload = head[3], await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind in {SETTINGS, PING} and not head[4] & ACK:
            self.writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind == SETTINGS:
                self.window = dict(struct.iter_unpack(">HI", payload)).get(INITIAL_WINDOW, self.window)
        return kind, int.from_bytes(head[5:], "big"), payload

    async def read_until(self, kind: int) -> bytes:
        while (found := await asyncio.wait_for(self.read(), PATIENCE))[0] != kind:
            assert found[0] != RST_STREAM
        return found[2]

    def call(self, stream: int, data: bytes) -> None:
        message = b"\0" + struct.pack(">I", len(data)) + data
        self.writer.write(frame(HEADERS, END_HEADERS, stream, HEAD) + frame(DATA, END_STREAM, stream, message))


async def begun(calls: OpenCalls) -> None:
    """Returns when a handler has a call."""
    while not calls.peers()[0]:
        await asyncio.sleep(0.001)


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    asyncio.run(run())


def test_what_a_client_sends_before_it_has_read_goaway_is_answered() -> None:
    async def run() -> None:
        async with served() as (bound, calls), RawClient.connected(bound.port) as client:
            client.call(1, b"wait")
            await begun(calls)
            drain = asyncio.create_task(Drain([bound], calls).run(PATIENCE))
            assert await client.read_until(GOAWAY) == struct.pack(">II", 2**31 - 1, 0)
            client.call(3, b"late")
            assert [(await client.read_until(DATA))[5:] for _ in range(2)] == [b"late", b"wait"]
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", bound.port)
            assert not drain.done()
            await client.close()
            await asyncio.wait_for(drain, draining.LEAVE_S)

    in_a_loop(run)


def test_grpcio_alone_loses_that_call() -> None:
    """Why all this is done. Where grpcio no longer does, its own shutdown is enough."""

    async def run() -> None:
        async with served() as (bound, calls), RawClient.connected(bound.port) as client:
            client.call(1, b"wait")
            await begun(calls)
            stopping = asyncio.create_task(bound.server.stop(PATIENCE))
            await client.read_until(GOAWAY)
            client.call(3, b"late")
            while (found := await asyncio.wait_for(client.read(), PATIENCE))[0] != RST_STREAM:
                assert found[:2] != (DATA, 3)
            assert found[1] == 3
            await client.close()
            await stopping

    in_a_loop(run)


def test_a_client_that_stays_is_not_waited_for() -> None:
    async def run() -> None:
        async with served() as (bound, calls), RawClient.connected(bound.port) as client:
            began = time.monotonic()
            await Drain([bound], calls).run(PATIENCE)
            assert draining.LEAVE_S <= time.monotonic() - began < 2 * draining.LEAVE_S + 2
            await client.close()

    in_a_loop(run)


def test_the_end_comes_at_the_deadline() -> None:
    async def run() -> None:
        async with served() as (bound, calls):
            began = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
                    asked = channel.unary_unary("/test/Echo")(b"long")
                    await begun(calls)
                    await Drain([bound], calls).run(0.1)
                    await asked
            assert time.monotonic() - began < 5
            assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

    in_a_loop(run)


def test_large_answers_under_way_stay_whole() -> None:
    async def run() -> None:
        async with served() as (bound, calls):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}", [("grpc.max_receive_message_length", -1)])
            asked = [channel.unary_unary(f"/test/{name}")(b"x") for name in ("Large", "Large", "Echo", "Large", "Echo")]
            await asked[2]
            drain = asyncio.create_task(Drain([bound], calls).run(PATIENCE))
            answers = await asyncio.gather(*asked)
            assert [answer == b"x" * len(answer) for answer in answers] == [True] * 5
            assert sorted(map(len, answers)) == [1, 1, *[16 << 20] * 3]
            await channel.close()
            await asyncio.wait_for(drain, PATIENCE)

    in_a_loop(run)


async def _ask_until_told(channel: Any, seen: Counter[str]) -> None:
    ask = channel.unary_unary("/test/Echo")
    while True:
        try:
            await ask(b"x", timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            seen[f"{error.code().name}: {error.details()}"] += 1
            return
        seen["OK"] += 1


def test_over_tls_new_calls_end_as_unavailable(tmp_path: Path) -> None:
    key, certificate = self_signed(tmp_path)
    chain = certificate.read_bytes()
    tls = grpc.ssl_server_credentials([(key.read_bytes(), chain)])

    async def run() -> None:
        async with served(tls) as (bound, calls):
            seen = Counter[str]()
            async with grpc.aio.secure_channel(f"localhost:{bound.port}", grpc.ssl_channel_credentials(chain)) as channel:
                clients = [asyncio.create_task(_ask_until_told(channel, seen)) for _ in range(8)]
                while seen["OK"] < 100:
                    await asyncio.sleep(0)
                await Drain([bound], calls).run(PATIENCE)
                await asyncio.gather(*clients)
            assert seen.pop("OK") >= 100
            assert seen == {f"UNAVAILABLE: {STOPPING}": 8}

    in_a_loop(run)


def test_who_waits_to_be_accepted_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert not connections.stop_listening({port})
            accepted, _ = listening.accept()
            with accepted:
                assert connections.stop_listening({port})
                assert [peer for peer, _ in connections.established({port})] == [Peer(*client.getsockname())]
                assert not connections.tell(accepted)  # the server has not sent its settings
                accepted.sendall(frame(SETTINGS, 0, 0))
                assert len(client.recv(100)) == 9
                assert connections.tell(accepted)
                assert client.recv(100) == connections.GOAWAY == frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_a_connection_that_does_not_take_what_is_sent_is_told_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            accepted.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted.send(bytes(1 << 20))
            assert not connections.tell(accepted)


def test_without_proc_grpcios_own_shutdown_has_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connections, "_DESCRIPTORS", tmp_path / "nothing")

    async def run() -> None:
        async with served() as (bound, calls), grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
            asked = channel.unary_unary("/test/Echo")(b"wait")
            await begun(calls)
            await asyncio.wait_for(Drain([bound], calls).run(PATIENCE), PATIENCE)
            assert await asked == b"wait"

    in_a_loop(run)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:10.0.0.1:5", Peer("10.0.0.1", 5)),
        ("ipv6:%5B::1%5D:55", Peer("::1", 55)),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5", Peer("10.0.0.1", 5)),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", Peer("fe80::1", 5)),
        ("unix:/tmp/socket", None),
        ("unix:", None),
    ],
)
def test_peers(text: str, peer: Peer | None) -> None:
    assert named_peer(text) == peer
