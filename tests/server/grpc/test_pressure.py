"""Clients that have a front end hold what it cannot count: requests that do not end, answers that are not read."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from jitney.server.grpc import pressure
from jitney.server.grpc.open_calls import WAITED, OpenCalls
from jitney.server.grpc.pressure import Pressure, measure
from jitney.tests.fakes.grpc import grpc_serving, repository
from jitney.tests.server.grpc.test_draining import INITIAL_WINDOW, PATIENCE, RawClient, in_a_loop, served
from jitney.tests.server.grpc.test_hostile import DATA, END_HEADERS, HEADERS, RST_STREAM, SETTINGS, frame, header, text
from jitney.tests.server.grpc.test_load import resident
from jitney.tests.server.grpc.test_serving import front_ends

WINDOW_UPDATE, FRAME_BYTES = 8, 16_384
MIB = 1 << 20


def head(path: str) -> bytes:
    found = b"\x83\x86\x04" + text(path.encode()) + header(b":authority", b"x")
    return found + header(b"content-type", b"application/grpc") + header(b"te", b"trailers")


class Sender:
    """Sends requests of so many bytes on several streams of one connection, all but their last byte."""

    def __init__(self, client: RawClient, path: str, streams: int, nbytes: int) -> None:
        self._client, self._nbytes, self._window = client, nbytes, client.window
        self._room = {0: 65_535} | {2 * number + 1: client.window for number in range(streams)}
        self.left = {stream: nbytes + 4 for stream in self._room if stream}
        self.ended: set[int] = set()
        for stream in self.left:
            client.writer.write(frame(HEADERS, END_HEADERS, stream, head(path)))

    async def run(self) -> None:
        """Until everything is sent, or the server has ended those streams where it is not."""
        while self.left:
            for stream in list(self.left):
                self._send(stream)
            if self.left:
                self._read(*await asyncio.wait_for(self._client.read(), PATIENCE))

    async def read_ends(self) -> None:
        """Until the server has ended another stream."""
        before = len(self.ended)
        while len(self.ended) == before:
            self._read(*await asyncio.wait_for(self._client.read(), PATIENCE))

    def _send(self, stream: int) -> None:
        while stream in self.left:
            size = min(FRAME_BYTES, self.left[stream], self._room[stream], self._room[0])
            if size <= 0:
                return
            first = self.left[stream] == self._nbytes + 4
            data = (b"\0" + struct.pack(">I", self._nbytes) if first else b"") + bytes(size)
            self._client.writer.write(frame(DATA, 0, stream, data[:size]))
            self._room[0] -= size
            self._room[stream] -= size
            self.left[stream] -= size
            if not self.left[stream]:
                del self.left[stream]

    def _read(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream in self._room:
            self._room[stream] += int.from_bytes(payload, "big")
        elif kind == SETTINGS:
            for other in self.left:
                self._room[other] += self._client.window - self._window
            self._window = self._client.window
        elif kind in {HEADERS, RST_STREAM}:
            self.left.pop(stream, None)
            self.ended.add(stream)


async def until(done: Callable[[], bool]) -> None:
    """Returns when this holds."""
    async with asyncio.timeout(PATIENCE):
        while not done():
            await asyncio.sleep(0.01)


def test_requests_that_do_not_end_are_ended_the_oldest_first() -> None:
    """Of eight connections: what came on one together is in the same memory, which grpcio has until all of it is over."""

    async def run() -> None:
        async with served() as (bound, calls), contextlib.AsyncExitStack() as stack:
            guard, in_use = Pressure(calls, {bound.port}, 21 * MIB, 100), measure()
            before, senders = in_use(), list[Sender]()
            while len(senders) < 8:
                client = await stack.enter_async_context(RawClient.connected(bound.port))
                senders.append(Sender(client, "/test/Echo", 1, 3 * MIB))
                await until(lambda: len(calls.receiving) == len(senders))
            await asyncio.gather(*(sender.run() for sender in senders))
            await until(lambda: in_use() - before > 22 * MIB)
            guard.look()
            await until(lambda: len(calls.receiving) == 4)
            for sender in senders[:4]:
                await sender.read_ends()
            assert [sender.ended for sender in senders] == [{1}] * 4 + [set()] * 4
            await until(lambda: in_use() - before < 20 * MIB)
            guard.look()
            await asyncio.sleep(0.05)
            assert len(calls.receiving) == 4
            async with grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
                assert await channel.unary_unary("/test/Echo")(b"x") == b"x"

    in_a_loop(run)


def test_answers_that_are_not_read_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with served() as (bound, calls), RawClient.connected(bound.port) as client:
            guard, in_use = Pressure(calls, {bound.port}, 80 * MIB, 100), measure()
            before = in_use()
            client.writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 0)))
            for number in range(4):
                stream = 2 * number + 1
                client.writer.write(frame(HEADERS, END_HEADERS, stream, head("/test/Large")))
                client.writer.write(frame(DATA, 1, stream, b"\0" + struct.pack(">I", 1) + b"x"))
            await until(lambda: len(calls.unread) == 4)
            await until(lambda: in_use() - before > 100 * MIB)  # the handler's, and grpcio's copy
            async with grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
                guard.look()
                assert len(calls.unread) == 4  # they may be on their way
                monkeypatch.setattr(pressure, "UNREAD_S", 0.0)
                guard.look()
                await until(lambda: not calls.unread and in_use() - before < 80 * MIB)
                assert await channel.unary_unary("/test/Echo")(b"x") == b"x"

    in_a_loop(run)


async def answering_large(requests: Any, context: Any) -> AsyncIterator[bytes]:
    """A stream with a part that holds more than all else."""
    yield bytes(128 * MIB)


async def small(request: bytes, context: Any) -> bytes:
    return bytes(MIB)


def test_who_holds_most_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client does not read, before answers of unary calls that were not read for longer, before idle streams."""
    monkeypatch.setattr(pressure, "UNREAD_S", 0.0)
    handlers = {
        "/test/Small": grpc.unary_unary_rpc_method_handler(small),
        "/test/Stream": grpc.stream_stream_rpc_method_handler(answering_large),
        "/test/Idle": grpc.stream_stream_rpc_method_handler(answering([], yields=True)),
    }

    async def run() -> None:
        async with (
            served(handlers=handlers) as (bound, calls),
            RawClient.connected(bound.port) as first,
            RawClient.connected(bound.port) as second,
        ):
            held = [0]
            guard = Pressure(calls, {bound.port}, 100 * MIB, 100, lambda: held[0])
            for client, paths in ((first, ["Small", "Small", "Idle"]), (second, ["Stream"])):
                client.writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 0)))
                for number, path in enumerate(paths):
                    client.writer.write(frame(HEADERS, END_HEADERS, 2 * number + 1, head(f"/test/{path}")))
                    if path == "Small":
                        client.writer.write(frame(DATA, 1, 2 * number + 1, b"\0" + struct.pack(">I", 1) + b"x"))
                await until(lambda: len(calls.unread) == 2 and len(calls.streams) == (1 if client is first else 2))  # noqa: B023
            await until(lambda: max(call.holds for call in calls.streams) >= 128 * MIB)
            held[0] = 131 * MIB
            guard.look()
            guard.look()  # what has been ended may take a moment to go
            assert [call.evicted for call in (*calls.streams, *calls.unread)] == [False, True, False, False]
            held[0] = 160 * MIB
            guard.look()  # it does not: its client does not read
            await until(lambda: [call.path for call in calls.streams] == ["/test/Idle"])
            assert [call.evicted for call in calls.unread] == [False] * 2
            held[0] = 190 * MIB
            guard.look()
            await until(lambda: not calls.unread)

    in_a_loop(run)


def test_it_looks_more_often_where_the_bound_is_near() -> None:
    held = [0]
    for limit, given, seconds in ((1024, 0, 0.1), (1024, 974, 0.05), (64, 0, 0.0625), (1024, 2048, 0.005)):
        guard = Pressure(OpenCalls(), set(), limit * MIB, 10, lambda: held[0])
        held[0] = given * MIB
        guard.look()
        assert guard._pause() == pytest.approx(seconds, rel=0.05)
        held[0] = 0


def test_calls_that_take_the_places_of_others_say_why_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "SLOW_S", 0.0)

    async def run() -> None:
        async with served() as (bound, calls), grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
            guard = Pressure(calls, {bound.port}, 1 << 40, 4)
            asked = [channel.stream_unary("/test/Echo")() for _ in range(3)]
            for call in asked[:2]:
                await call.wait_for_connection()
            await until(lambda: len(calls.receiving) == 3)
            guard.look()
            for call in asked:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, WAITED)
            asked = [channel.stream_unary("/test/Echo")() for _ in range(2)]
            await until(lambda: len(calls.receiving) == 2)
            guard.look()
            await asyncio.sleep(0.05)
            assert len(calls.receiving) == 2

    in_a_loop(run)


def test_a_call_without_a_request() -> None:
    async def run() -> None:
        async with served() as (bound, _), grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
            call = channel.stream_unary("/test/Echo")()
            await call.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "has no request" in (caught.value.details() or "")

    in_a_loop(run)


def test_what_is_in_use() -> None:
    in_use = measure()
    before = in_use()
    held = np.ones(64 * MIB, np.uint8)
    assert in_use() - before > 60 * MIB
    del held
    assert in_use() - before < 8 * MIB


def test_what_is_in_use_where_the_c_library_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    in_use = measure()
    before = in_use()
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:  # not what was freed before
        for _ in range(64):
            held.write(b"\1" * MIB)
        assert in_use() - before > 60 * MIB
    assert in_use() - before < 8 * MIB


def answering(begun: list[int], yields: bool) -> Any:
    """The behaviour of a method that sends back what it reads."""

    async def writing(requests: Any, context: Any) -> None:
        async for request in requests:
            begun.append(len(request))
            await context.write(request)

    async def yielding(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            begun.append(len(request))
            yield request

    return yielding if yields else writing


@pytest.mark.parametrize("yields", [False, True])
@pytest.mark.parametrize("nbytes", [1, 4 * MIB])
def test_streams_are_ended_where_nothing_else_waits(yields: bool, nbytes: int) -> None:
    """Where they wait for their client's next request, and in the middle of an answer that it does not read."""

    async def run() -> None:
        begun, held = list[int](), [0]
        handlers = {"/test/Stream": grpc.stream_stream_rpc_method_handler(answering(begun, yields))}
        async with served(handlers=handlers) as (bound, calls):
            guard = Pressure(calls, set(), 10, 10, lambda: held[0])
            held[0] = 11
            guard.look()  # nobody is there whose call could be ended
            given = [("grpc.max_receive_message_length", -1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}", options=given) as channel:
                asked = channel.stream_stream("/test/Stream")()
                await asked.write(bytes(nbytes))
                if nbytes == 1:
                    assert await asked.read() == bytes(nbytes)
                await until(lambda: begun == [nbytes])
                guard.look()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    while True:
                        await asyncio.wait_for(asked.read(), PATIENCE)
                assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, WAITED)

    in_a_loop(run)


def test_a_front_end_is_bounded(tmp_path: Path) -> None:
    """By default 1 GiB; here 32 MiB, twice what one request and one answer may have."""
    properties = f"max_request_size={8 * MIB}\nmax_response_size={8 * MIB}\nmax_held_bytes={MIB}\n"
    with grpc_serving(repository(tmp_path), properties=properties) as site:
        (pid,) = front_ends(site.server)
        before = resident(pid)

        async def attack() -> int:
            async with RawClient.connected(int(site.address.rpartition(":")[2])) as client:
                sender = Sender(client, "/inference.GRPCInferenceService/ModelInfer", 32, 7 * MIB)
                sending, peak = asyncio.create_task(sender.run()), 0
                while not sending.done():
                    peak = max(peak, resident(pid))
                    await asyncio.sleep(0.02)
                await sending
                while len(sender.ended) < 24:  # what the others sent is still more than may be held
                    await sender.read_ends()
            return peak

        assert asyncio.run(attack()) - before < 160 * MIB
        with triton.InferenceServerClient(site.address) as client:
            assert client.is_server_live()
        assert front_ends(site.server) == [pid]
