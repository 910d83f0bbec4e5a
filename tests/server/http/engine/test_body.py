"""Bodies by length and in chunks: whatever the pieces they come in, the same bytes; limits and broken framing end them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.holding import Body
from jitney.server.http.engine.body import MAX_CHUNKS, MAX_LINE, MAX_TRAILER, BodyStream, ChunkedReceiver, FixedReceiver


def feed(receiver: FixedReceiver | ChunkedReceiver, data: bytes, step: int) -> int:
    """Gives `data` in pieces of `step` bytes and returns how much was taken."""
    taken = 0
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        used = receiver.received(piece)
        taken += used
        if used < len(piece) or receiver.completed or receiver.error:
            break
    return taken


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n" + trailer + b"\r\n"


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50), st.binary(max_size=5))
def test_chunks_arrive_in_any_pieces(pieces: list[bytes], step: int, rest: bytes) -> None:
    receiver = ChunkedReceiver(1000)
    wire = chunked(pieces, b"X-Trailer: y\r\n")
    assert feed(receiver, wire + rest, step) == len(wire)
    assert receiver.completed and receiver.error is None
    assert bytes(receiver.body) == b"".join(pieces)


@given(st.binary(max_size=100), st.integers(1, 30), st.binary(max_size=5))
def test_a_fixed_body_takes_its_length_and_no_more(body: bytes, step: int, rest: bytes) -> None:
    receiver = FixedReceiver(len(body))
    if body:
        assert feed(receiver, body + rest, step) == len(body)
        assert receiver.completed and bytes(receiver.body) == body


@pytest.mark.parametrize(
    "wire",
    [
        b"g\r\nx\r\n",
        b"-1\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"\r\n3\r\nabc\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\rx\r\nabc\r\n",
        b"11111111111111111\r\n",
        b"3;" + b"x" * MAX_LINE + b"\r\nabc\r\n",
        b"x" * (MAX_LINE + 1),
        b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER // 4 + 1),
    ],
)
def test_broken_framing_is_refused(wire: bytes) -> None:
    receiver = ChunkedReceiver(1 << 30)
    feed(receiver, wire, 1000)
    assert receiver.error is not None and receiver.error.code == 400


def test_extensions_are_dropped() -> None:
    receiver = ChunkedReceiver(10)
    receiver.received(b"3;name=value\r\nabc\r\n0;last\r\n\r\n")
    assert receiver.completed and receiver.body == b"abc"


def test_a_chunk_that_announces_too_much_is_refused_before_it_arrives() -> None:
    receiver = ChunkedReceiver(10)
    receiver.received(b"8\r\n12345678\r\n3\r\n")
    assert receiver.error is not None and receiver.error.code == 413
    assert receiver.body == b"12345678"


def test_a_flood_of_tiny_chunks_is_cut_off() -> None:
    receiver = ChunkedReceiver(1 << 30)
    feed(receiver, b"1\r\nx\r\n" * (MAX_CHUNKS + 10), 262144)
    assert receiver.error is not None and receiver.error.code == 413
    assert len(receiver.body) <= MAX_CHUNKS


def test_the_stream_reads_like_a_file_and_lends_its_bytes() -> None:
    body = bytearray(b"0123456789")
    stream = BodyStream(body)
    assert stream.read(3) == b"012" and stream.read(0) == b"" and stream.read() == b"3456789" and stream.read() == b""
    assert list(BodyStream(bytearray(b"a\nb\n"))) == [b"a\n", b"b\n"]
    target = bytearray(4)
    assert BodyStream(body).readinto(target) == 4 and target == b"0123"
    assert stream.getbuffer().obj is body


class NoMemory(Body):
    """A body for which the system has none."""

    def __iadd__(self, more: object) -> NoMemory:
        raise MemoryError


@pytest.mark.parametrize("receiver", [FixedReceiver(5), ChunkedReceiver(1000)])
def test_a_body_that_the_system_has_no_memory_for_is_refused(receiver: FixedReceiver | ChunkedReceiver) -> None:
    receiver.body = NoMemory()
    receiver.received(b"5\r\nabcde\r\n0\r\n\r\n" if isinstance(receiver, ChunkedReceiver) else b"abcde")
    assert receiver.error is not None and receiver.error.code == 503
    assert "the system has no memory for" in str(receiver.error.body)
    assert not receiver.completed and len(receiver.body) == 0
