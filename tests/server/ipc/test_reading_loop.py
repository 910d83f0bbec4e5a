from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from jitney.server.ipc.reading_loop import ReadingLoop
from jitney.server.ipc.shared_threads import SharedThreads

LIMIT_S = 10.0


@pytest.fixture
def loop() -> Iterator[ReadingLoop]:
    found = ReadingLoop("t")
    found.open()
    yield found
    found.close()


def test_each_socket_is_served_until_it_says_no(loop: ReadingLoop) -> None:
    ours, theirs = socket.socketpair()
    seen: list[bytes] = []
    lost = threading.Event()

    def serve() -> bool:
        seen.append(ours.recv(1))
        return seen[-1] != b"3"

    with ours, theirs:
        assert loop.watch(ours.fileno(), serve, lost.set)
        theirs.sendall(b"12345")
        assert lost.wait(LIMIT_S)
        assert seen == [b"1", b"2", b"3"]
        assert ours.recv(9) == b"45"  # which the loop leaves alone


def test_it_may_be_watched_again_from_lost(loop: ReadingLoop) -> None:
    ours, theirs = socket.socketpair()
    turns: list[bytes] = []
    over = threading.Event()

    def serve() -> bool:
        turns.append(ours.recv(1))
        return False

    def again() -> None:
        if len(turns) == 3:
            over.set()
        else:
            assert loop.watch(ours.fileno(), serve, again)

    with ours, theirs:
        again()
        theirs.sendall(b"123")
        assert over.wait(LIMIT_S)
        assert turns == [b"1", b"2", b"3"]


def test_who_cannot_be_told_ends_nothing_for_the_others(loop: ReadingLoop, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise MemoryError

    pairs = [socket.socketpair() for _ in range(2)]
    over = threading.Event()
    try:
        (first, to_first), (second, to_second) = pairs
        assert loop.watch(first.fileno(), lambda: False, fails)
        assert loop.watch(second.fileno(), lambda: False, over.set)
        to_first.sendall(b"1")
        to_second.sendall(b"2")
        assert over.wait(LIMIT_S)
    finally:
        for each in (*pairs[0], *pairs[1]):
            each.close()
    assert "MemoryError" in caplog.text


def test_its_end_lets_everything_go_and_nothing_is_watched_after_it(caplog: pytest.LogCaptureFixture) -> None:
    loop = ReadingLoop("t")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not loop.watch(ours.fileno(), lambda: True, lambda: None)
        loop.open()
        lost, failed = threading.Event(), threading.Event()
        assert loop.watch(ours.fileno(), lambda: True, lost.set)
        assert loop.watch(theirs.fileno(), lambda: bool(1 // 0), failed.set)
        ours.sendall(b"x")
        assert failed.wait(LIMIT_S)
        assert "ZeroDivisionError" in caplog.text
        loop.close()
        assert lost.is_set()
        assert not loop.watch(ours.fileno(), lambda: True, lambda: None)


def test_the_threads_are_there_between_the_first_user_and_the_last() -> None:
    before = set(threading.enumerate())
    threads = SharedThreads()
    for _ in range(2):
        threads.acquire("one")
        there = set(threading.enumerate()) - before
        threads.acquire("another")
        assert len(there) == 3 and set(threading.enumerate()) - before == there
        threads.release()
        assert set(threading.enumerate()) - before == there
        threads.release()
        assert set(threading.enumerate()) <= before
