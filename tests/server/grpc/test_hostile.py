"""Clients that speak HTTP/2 to do harm: each is bounded, and the others are answered."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest
import tritonclient.grpc as triton

from jitney.tests.fakes.grpc import Site, X, given
from jitney.tests.server.grpc.test_load import open_files, resident, threads
from jitney.tests.server.grpc.test_serving import front_ends
from jitney.tools.bench.served import wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_HEADERS = 4
#: Seconds that an attack may take, whether the server ends it or not.
PATIENCE = 15.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def text(value: bytes) -> bytes:
    """HPACK's string, not Huffman coded."""
    assert len(value) < 127 + 128
    return bytes((len(value),)) + value if len(value) < 127 else b"\x7f" + bytes((len(value) - 127,)) + value


def header(name: bytes, value: bytes) -> bytes:
    return b"\x00" + text(name) + text(value)


#: The head of a call of ModelInfer.
HEAD = b"\x83\x86\x04" + text(b"/inference.GRPCInferenceService/ModelInfer") + header(b":authority", b"x")
HEAD += header(b"content-type", b"application/grpc") + header(b"te", b"trailers")


def rapid_reset() -> Iterator[bytes]:
    for number in range(20_000):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, HEAD) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def pings() -> Iterator[bytes]:
    for number in range(100_000):
        yield frame(PING, 0, 0, struct.pack(">Q", number))


def endless_head() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, HEAD)
    for number in range(20_000):
        yield frame(CONTINUATION, 0, 1, b"".join(header(b"h%d" % number, b"v" * 100) for _ in range(20)))


def large_head() -> Iterator[bytes]:
    for number in range(200):
        pieces = [header(b"h%d" % i, b"v" * 120) for i in range(100)]
        yield frame(HEADERS, END_HEADERS, 2 * number + 1, HEAD + b"".join(pieces))


def open_streams() -> Iterator[bytes]:
    for number in range(20_000):
        yield frame(HEADERS, END_HEADERS, 2 * number + 1, HEAD)


def settings() -> Iterator[bytes]:
    for _ in range(100_000):
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535))


def attack(address: str, frames: Iterator[bytes]) -> None:
    """Sends everything, or as much as the server takes; reads nothing."""
    host, port = address.split(":")
    deadline = time.monotonic() + PATIENCE
    with socket.create_connection((host, int(port)), timeout=2) as sock, contextlib.suppress(OSError):
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
        for data in frames:
            sock.sendall(data)
            if time.monotonic() > deadline:
                return


@pytest.mark.parametrize("frames", [rapid_reset, pings, endless_head, large_head, open_streams, settings])
def test_the_server_survives_and_answers_others(site: Site, frames: object) -> None:
    assert callable(frames)
    (pid,) = front_ends(site.server)
    with triton.InferenceServerClient(site.address) as client:
        client.infer("double", [given()])
        held = open_files(pid), threads(pid), resident(pid)
        attack(site.address, frames())
        answer = client.infer("double", [given()], client_timeout=PATIENCE)
        assert answer.as_numpy("y").tolist() == (X * 2).tolist()
    assert front_ends(site.server) == [pid]
    wait_until(lambda: open_files(pid) <= held[0], PATIENCE, "the end of the connections")
    assert threads(pid) <= held[1] + 2
    assert resident(pid) < held[2] + (150 << 20)


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE[:10], b"\0" * 1000, PREFACE + b"\xff" * 5000]
)
def test_what_is_no_http2(site: Site, start: bytes) -> None:
    host, port = site.address.split(":")
    with socket.create_connection((host, int(port)), timeout=2) as sock, contextlib.suppress(OSError):
        sock.sendall(start)
        sock.recv(1000)
    with triton.InferenceServerClient(site.address) as client:
        assert client.is_server_live()
