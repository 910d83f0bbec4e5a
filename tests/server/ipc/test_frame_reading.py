"""Who reads a socket: a thread, the reactor that it lends it to, a thread that waits for a message."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from jitney.server.frontends.messages import UPWARD, Requested, encode, pack
from jitney.server.http.engine.loop import Loop
from jitney.server.ipc.frame import FrameReader, PeerClosed
from jitney.server.ipc.frame_reading import Reading
from jitney.server.ipc.reactor import Reactors
from jitney.tools.bench.served import wait_until

LIMIT = 10.0
LONG = "x" * 200_000


class Reader:
    """Reads what `send` sends; `seen` are the texts, with the thread that took each. `then` is called after each."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.seen: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self.then: Callable[[], None] = lambda: None
        self.reactors = Reactors()
        self.reading = Reading(self.ours, FrameReader(self.ours, 1), self._take, self.reactors)
        self.thread = threading.Thread(target=self._run, name="reading", daemon=True)
        self.thread.start()

    def _take(self, payload: bytes | bytearray) -> None:
        for message in UPWARD.decode(payload):
            if not isinstance(message, Requested) or message.model == "bad":
                raise ValueError("a bad message")
            self.seen.append((message.model, threading.current_thread().name))
            self.then()

    def _run(self) -> None:
        try:
            self.reading.run()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.failure = error

    def send(self, *texts: str) -> None:
        """Each in a frame of its own, all in one piece."""
        self.theirs.sendall(b"".join(pack([encode(Requested(text, None))]) for text in texts))

    def texts(self, count: int) -> list[str]:
        wait_until(lambda: len(self.seen) >= count, LIMIT, f"{count} messages")
        return [text for text, _ in self.seen]

    def close(self) -> None:
        self.theirs.close()
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        self.ours.close()


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture
def loop(reader: Reader) -> Iterator[Loop]:
    """The reader's reactor."""
    loop = Loop("test")
    server = SimpleNamespace(active_channels={}, holds_off=False, maintenance=lambda now: None)
    thread = threading.Thread(target=loop.run, args=(server, 1.0), name="loop")
    thread.start()
    reader.reactors.offer(loop)
    yield loop
    reader.reactors.withdraw(loop)
    loop.stop()
    thread.join(LIMIT)
    loop.close()


def test_without_a_reactor_the_thread_reads(reader: Reader) -> None:
    reader.send("a", LONG, "b")
    assert reader.texts(3) == ["a", LONG, "b"]
    assert {name for _, name in reader.seen} == {"reading"}


def test_the_reactor_reads_what_is_short_and_nothing_is_left_lying(reader: Reader, loop: Loop) -> None:
    expected: list[str] = []
    for texts in (("first", "with it"), ("a",), ("b", "c", LONG, "d", "e"), ("f",), (LONG, LONG), ("g", "h")):
        reader.send(*texts)
        expected += texts
        assert reader.texts(len(expected)) == expected
    assert ("a", "loop") in reader.seen and (LONG, "reading") in reader.seen


def test_a_peer_that_writes_without_end_does_not_keep_the_reactor(reader: Reader, loop: Loop) -> None:
    """Of which each message is followed by the next before it is taken."""
    reader.send("a")
    reader.texts(1)
    served = threading.Event()
    reader.then = lambda: None if served.is_set() or len(reader.seen) > 10_000 else reader.send("another")
    loop.post(lambda: reader.send("first"))
    wait_until(lambda: len(reader.seen) > 1, LIMIT, "the first of many")
    loop.post(served.set)
    assert served.wait(LIMIT) and len(reader.seen) <= 10_000
    assert ("another", "loop") in reader.seen


def test_the_thread_goes_on_when_the_reactor_ends(reader: Reader, loop: Loop) -> None:
    reader.send("a")
    reader.texts(1)
    reader.send("b")
    reader.texts(2)
    assert reader.seen[1] == ("b", "loop")
    reader.reactors.withdraw(loop)
    loop.stop()
    reader.send("c")
    assert reader.texts(3)[2] == "c"


def test_who_waits_for_a_message_reads_where_nobody_does(reader: Reader, loop: Loop) -> None:
    """In the reactor's own thread, which would otherwise wait for itself."""
    reader.send("a")
    reader.texts(1)
    found: list[bool] = []

    def wait() -> None:
        reader.send("b", "awaited", "c")
        found.append(reader.reading.wait_for(lambda: any(text == "awaited" for text, _ in reader.seen), LIMIT))

    loop.post(wait)
    assert reader.texts(4) == ["a", "b", "awaited", "c"]
    wait_until(lambda: found == [True], LIMIT, "the end of waiting")
    reader.send("d")
    assert reader.texts(5)[4] == "d"


def test_who_waits_in_the_reactor_waits_no_longer_than_asked(reader: Reader, loop: Loop) -> None:
    """Whether nothing comes, or something else. Else a process that stands still would stop the other's loop."""
    reader.send("a")
    reader.texts(1)
    found: list[bool] = []

    def wait() -> None:
        found.append(reader.reading.wait_for(lambda: False, 0.05))
        reader.send("another")
        found.append(reader.reading.wait_for(lambda: False, 0.05))

    loop.post(wait)
    wait_until(lambda: found == [False, False], LIMIT, "the end of waiting")
    assert reader.texts(2) == ["a", "another"]
    reader.send("b")
    assert reader.texts(3)[2] == "b"


def test_waiting_ends_in_time_and_when_there_will_be_nothing(reader: Reader) -> None:
    assert not reader.reading.wait_for(lambda: False, 0.05)
    reader.send("bad")
    wait_until(lambda: reader.failure is not None, LIMIT, "the failure")


@pytest.mark.parametrize("lent", [False, True])
def test_what_goes_wrong_ends_the_reading_thread_with_it(reader: Reader, loop: Loop, lent: bool) -> None:
    if not lent:
        reader.reactors.withdraw(loop)
    reader.send("a")
    reader.texts(1)
    reader.send("b")
    reader.texts(2)
    reader.send("bad")
    wait_until(lambda: reader.failure is not None, LIMIT, "the failure")
    assert isinstance(reader.failure, ValueError) and not isinstance(reader.failure, PeerClosed)


def test_the_end_of_the_other_side_is_noticed_while_the_socket_is_lent(reader: Reader, loop: Loop) -> None:
    reader.send("a")
    reader.texts(1)
    reader.theirs.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: isinstance(reader.failure, PeerClosed), LIMIT, "the end")
