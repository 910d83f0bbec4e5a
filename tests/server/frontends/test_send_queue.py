"""What is put into an send_queue leaves in order, together where it can, and nobody waits for a socket that is full."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from jitney.server.frontends import send_queue as module
from jitney.server.frontends.messages import MAX_MESSAGE, UPWARD, Cancel, Counted, Requested, Upward, encode
from jitney.server.frontends.send_queue import SendQueue
from jitney.server.ipc.coalesce import Coalescer
from jitney.server.ipc.frame import BadFrame, FrameReader, PeerClosed

LIMIT = 10.0


class Pair:
    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(LIMIT)
        self.stuck = threading.Event()
        self.coalescer = Coalescer()
        self.send_queue = SendQueue(self.ours, "test", self.stuck.set, self.coalescer)
        self.reader = FrameReader(self.theirs, 1)

    def frame(self) -> list[Upward]:
        return UPWARD.decode(self.reader.read_frame()[1])

    def frames(self, count: int) -> list[Upward]:
        found: list[Upward] = []
        while len(found) < count:
            found += self.frame()
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    pair.send_queue.start()
    yield pair
    pair.send_queue.close()
    pair.ours.close()
    pair.theirs.close()


def test_a_message_leaves_at_once(pair: Pair) -> None:
    pair.send_queue.put(Cancel(1))
    assert pair.frame() == [Cancel(1)]


def test_what_a_thread_gathers_leaves_in_one_frame(pair: Pair) -> None:
    pair.coalescer.plug()
    for number in range(3):
        pair.send_queue.put(Cancel(number))
    pair.theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.theirs.recv(1)
    pair.coalescer.unplug()
    pair.theirs.settimeout(LIMIT)
    assert pair.frame() == [Cancel(0), Cancel(1), Cancel(2)]


def test_what_is_not_urgent_waits_for_company_but_not_for_ever(pair: Pair) -> None:
    pair.send_queue.put(Requested("m", None), urgent=False)
    pair.send_queue.put(Cancel(1))
    assert pair.frame() == [Requested("m", None), Cancel(1)]
    pair.send_queue.put(Requested("m", "1"), urgent=False)
    assert pair.frame() == [Requested("m", "1")]


def test_what_is_counted_goes_with_the_next_frame_or_soon(pair: Pair) -> None:
    for status in (200, 404, 200, 200):
        pair.send_queue.count(status)
    pair.send_queue.put(Cancel(1))
    assert pair.frame() == [Counted(200, 3), Counted(404, 1), Cancel(1)]
    pair.send_queue.count(200)
    assert pair.frame() == [Counted(200, 1)]


def test_nobody_waits_for_a_full_socket_and_everything_arrives_in_order(pair: Pair) -> None:
    text = "x" * 100_000
    began = time.monotonic()
    for number in range(100):
        pair.send_queue.put(Requested(text, str(number)))
    assert time.monotonic() - began < 1.0
    assert [message.version for message in pair.frames(100)] == [str(number) for number in range(100)]  # type: ignore[union-attr]
    pair.send_queue.put(Cancel(1))
    assert pair.frame() == [Cancel(1)]


def test_nobody_waits_for_a_reader_that_is_quicker_than_what_waits_for_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket takes what the reader takes meanwhile, in one call; and who puts something waits for that."""
    given, send = list[int](), SendQueue._send

    def counted(queue: SendQueue, data: bytes | memoryview) -> int:
        given.append(len(data))
        return send(queue, data)

    for number in range(100):
        pair.send_queue.put(Requested("x" * 100_000, str(number)))
    assert pair.send_queue.backlog > 4 << 20 and not pair.send_queue.is_behind
    monkeypatch.setattr(SendQueue, "_send", counted)
    assert len(pair.frames(100)) == 100
    assert given and max(given) <= 1 << 20 < 4 << 20 < pair.send_queue.late


def test_who_does_not_read_for_too_long_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BACKLOG", 1_000_000)
    for _ in range(30):
        pair.send_queue.put(Requested("x" * 100_000, None))
    assert pair.stuck.is_set()
    pair.send_queue.put(Cancel(1))  # dropped


def test_what_cannot_be_sent_is_refused_and_the_rest_goes_on(pair: Pair) -> None:
    with pytest.raises(BadFrame):
        pair.send_queue.put(Requested("x" * (MAX_MESSAGE + 1), None))
    with pytest.raises((TypeError, OverflowError, ValueError)):
        pair.send_queue.put(Cancel(2**64))
    pair.send_queue.put(Cancel(1))
    assert pair.frame() == [Cancel(1)]


def test_after_the_other_side_has_gone_messages_are_dropped(pair: Pair) -> None:
    pair.theirs.close()
    for number in range(100):
        pair.send_queue.put(Requested("x" * 100_000, str(number)))


def test_closing_sends_what_is_there_first() -> None:
    pair = Pair()
    pair.send_queue.start()
    reading: list[Upward] = []

    def read() -> None:
        try:
            while True:
                reading.extend(pair.frame())
        except PeerClosed:
            pass

    for number in range(50):
        pair.send_queue.put(Requested("x" * 100_000, str(number)), urgent=False)
    thread = threading.Thread(target=read)
    thread.start()
    pair.send_queue.close(LIMIT)
    pair.ours.close()
    thread.join()
    pair.theirs.close()
    assert len(reading) == 50


def test_frames_have_room_for_any_message() -> None:
    assert len(encode(Requested("x" * (MAX_MESSAGE - 100), None))) <= MAX_MESSAGE
