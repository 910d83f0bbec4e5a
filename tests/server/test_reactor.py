"""The loop that reads what workers send: lent sockets, and how they come back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from jitney.server import reactor
from jitney.server.http.loop import Loop

LIMIT = 5.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop("test")
    thread = threading.Thread(target=loop.run, args=(SimpleNamespace(active_channels={}, maintenance=lambda now: None), 1.0))
    thread.start()
    yield loop
    loop.stop()
    thread.join(LIMIT)
    loop.close()
    assert not thread.is_alive()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_the_last_loop_that_offered_itself_is_the_reactor(loop: Loop) -> None:
    before, other = reactor.current(), Loop("other")
    reactor.offer(loop)
    reactor.offer(other)
    assert reactor.current() is other
    reactor.withdraw(other)
    assert reactor.current() is loop
    reactor.withdraw(loop)
    reactor.withdraw(loop)
    assert reactor.current() is before
    other.close()


def test_what_is_watched_is_served_in_the_loops_thread_until_it_is_let_go(loop: Loop, pipe: tuple[int, int]) -> None:
    seen: list[tuple[bytes, int]] = []
    lost = threading.Event()

    def serve() -> bool:
        seen.append((os.read(pipe[0], 1), threading.get_ident()))
        return len(seen) < 2

    assert loop.watch(pipe[0], serve, lost.set)
    os.write(pipe[1], b"abc")
    assert lost.wait(LIMIT)
    assert [data for data, _ in seen] == [b"a", b"b"]
    assert {ident for _, ident in seen} != {threading.get_ident()}
    assert os.read(pipe[0], 1) == b"c", "it was let go: nobody else reads"


def test_what_is_watched_comes_back_when_the_loop_ends(loop: Loop, pipe: tuple[int, int]) -> None:
    lost = threading.Event()
    assert loop.watch(pipe[0], lambda: True, lost.set)
    loop.stop()
    assert lost.wait(LIMIT)
    assert not loop.watch(pipe[0], lambda: True, lost.set)
