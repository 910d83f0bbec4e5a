"""The loop that reads what workers send: lent sockets, and how they come back."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from jitney.server.http.engine import loop as loops
from jitney.server.http.engine.loop import FEW, PORTION, Loop
from jitney.server.ipc.coalesce import Coalescer
from jitney.server.ipc.reactor import Reactors

LIMIT = 5.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop("test")
    thread = threading.Thread(
        target=loop.run, args=(SimpleNamespace(active_channels={}, holds_off=False, maintenance=lambda now: None), 1.0)
    )
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
    reactors, other = Reactors(), Loop("other")
    assert reactors.current() is None
    reactors.offer(loop)
    reactors.offer(other)
    assert reactors.current() is other
    reactors.withdraw(other)
    assert reactors.current() is loop
    reactors.withdraw(loop)
    reactors.withdraw(loop)
    assert reactors.current() is None
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


class Talkative:
    """A connection that always has something to say."""

    accepting, reads_plainly, connected = False, True, True

    def __init__(self, say: Callable[[], None]) -> None:
        self.read_plainly = say

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False


@pytest.fixture
def crowd() -> Iterator[list[tuple[int, int]]]:
    pipes = [os.pipe() for _ in range(3 * PORTION)]
    for _, end in pipes:
        os.write(end, b"x")
    yield pipes
    for pipe in pipes:
        for end in pipe:
            os.close(end)


def test_an_answer_does_not_stand_in_the_queue_of_connections(crowd: list[tuple[int, int]], pipe: tuple[int, int]) -> None:
    """However many connections have something to say, and whenever the answer comes."""
    loop = Loop("test")
    seen: list[Any] = []
    answers_at = {10, 11, PORTION + 7}

    def say() -> None:
        if len(seen) in answers_at:
            os.write(pipe[1], b"a")
        seen.append("connection")

    def serve() -> bool:
        seen.append(os.read(pipe[0], 1).decode())
        return True

    for end, _ in crowd:
        loop.sockets[end] = Talkative(say)
    assert loop.watch(pipe[0], serve, lambda: None)
    for _ in range(3):
        loop._round(0)
    at = [number for number, what in enumerate(seen) if what == "a"]
    assert len(at) == 3
    assert all(place - sent <= FEW + 3 for place, sent in zip(at, sorted(answers_at), strict=True)), at
    loop.close()


def test_connections_do_not_stand_in_the_queue_of_workers(crowd: list[tuple[int, int]]) -> None:
    """However many workers have something to say all the time; and none of these is left out."""
    loop = Loop("test")
    seen: list[int | None] = []

    def serve(number: int) -> bool:
        seen.append(number)
        return True

    workers, clients = crowd[: 2 * PORTION], crowd[2 * PORTION :]
    for number, (end, _) in enumerate(workers):
        assert loop.watch(end, partial(serve, number), lambda: None)
    for end, _ in clients:
        loop.sockets[end] = Talkative(lambda: seen.append(None))
    while seen.count(None) < 4 * PORTION:
        loop._round(0)
    places = [-1, *(place for place, who in enumerate(seen) if who is None)]
    assert max(after - before for before, after in itertools.pairwise(places)) <= 2 * FEW + 1
    assert set(seen) == {None, *range(len(workers))}
    loop.close()


def test_gathering_ends_in_time_though_there_is_more_to_read(
    crowd: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "GATHERED_S", 0.0)
    coalescer = Coalescer()
    loop = Loop("test", coalescer)
    woken: list[Any] = []
    seen: list[Any] = []

    def wake() -> None:
        woken.append(len(seen))

    def say() -> None:
        coalescer.defer(wake)
        seen.append(None)

    for end, _ in crowd:
        loop.sockets[end] = Talkative(say)
    loop._round(0)
    assert woken == [PORTION]
    loop.close()


def test_refusing_leaves_time_for_those_who_serve(
    crowd: list[tuple[int, int]], pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread rests as long as it refused, and an answer ends the rest."""
    monkeypatch.setattr(loops, "GATHERED_S", 0.0)
    monkeypatch.setattr(loops, "REST_SHARE", 1e6)
    monkeypatch.setattr(loops, "REST_S", LIMIT)
    coalescer = Coalescer()
    loop, refusing = Loop("test", coalescer), True

    def say() -> None:
        if refusing:
            coalescer.refused()

    for end, _ in crowd:
        loop.sockets[end] = Talkative(say)
    assert loop.watch(pipe[0], lambda: bool(os.read(pipe[0], 1)), lambda: None)
    answer = threading.Timer(0.2, os.write, (pipe[1], b"a"))
    answer.start()
    began = time.monotonic()
    loop._round(0)
    assert 0.15 < time.monotonic() - began < LIMIT
    refusing = False
    began = time.monotonic()
    for _ in range(4):
        loop._round(0)
    assert time.monotonic() - began < 0.15
    answer.join()
    loop.close()
