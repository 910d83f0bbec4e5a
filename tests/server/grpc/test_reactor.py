"""The event loop as the process' reactor, and what one burst of calls submits leaving together."""

from __future__ import annotations

import asyncio
import socket

from jitney.server.grpc.reactor import AioReactor, Gathering
from jitney.server.ipc.coalesce import Coalescer
from jitney.server.ipc.reactor import Reactors


def test_a_socket_is_served_by_the_loop_until_it_is_given_back() -> None:
    async def run() -> tuple[list[bytes], list[str]]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        seen: list[bytes] = []
        events: list[str] = []
        lost = asyncio.Event()

        def serve() -> bool:
            seen.append(ours.recv(10))
            return seen[-1] != b"end"

        def let_go() -> None:
            events.append("lost")
            lost.set()

        loop, reactors = asyncio.get_running_loop(), Reactors()
        found = AioReactor(loop, reactors)
        try:
            assert reactors.current() is found
            assert await loop.run_in_executor(None, found.watch, ours.fileno(), serve, let_go)
            for word in (b"a", b"b", b"end"):
                theirs.send(word)
                while word not in seen:
                    await asyncio.sleep(0.001)
            await asyncio.wait_for(lost.wait(), 5)
            theirs.send(b"nobody reads this")
            await asyncio.sleep(0.01)
        finally:
            found.close()
            ours.close()
            theirs.close()
        assert reactors.current() is None
        return seen, events

    assert asyncio.run(run()) == ([b"a", b"b", b"end"], ["lost"])


def test_at_the_end_of_the_loop_sockets_are_given_back() -> None:
    events = []

    async def run() -> AioReactor:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            found = AioReactor(asyncio.get_running_loop(), Reactors())
            found.watch(ours.fileno(), lambda: True, lambda: events.append("lost"))
            await asyncio.sleep(0.01)
            found.close()
            assert found.watch(ours.fileno(), lambda: True, lambda: events.append("late"))
            await asyncio.sleep(0.01)
        return found

    found = asyncio.run(run())
    assert events == ["lost", "late"]
    assert not found.watch(0, lambda: True, lambda: events.append("never"))


def gathered(crowd: int, steps: list[int]) -> list[list[int]]:
    """What left together: submissions 0, 1, 2, … with so many rounds of the loop before each."""
    groups: list[list[int]] = []
    waiting: list[int] = []

    def flush() -> None:
        groups.append(list(waiting))
        waiting.clear()

    async def run() -> None:
        coalescer = Coalescer()
        gathering = Gathering(asyncio.get_running_loop(), coalescer, lambda: crowd)
        for number, rounds in enumerate(steps):
            for _ in range(rounds):
                await asyncio.sleep(0)
            gathering.begin()
            waiting.append(number)
            assert coalescer.defer(flush, low_latency=True)
        for _ in range(Gathering.ROUNDS + 2):
            await asyncio.sleep(0)

    asyncio.run(run())
    return groups


def test_a_lone_call_waits_for_no_other() -> None:
    assert gathered(1, [0, 2, 2]) == [[0], [1], [2]]


def test_calls_of_a_crowd_leave_together() -> None:
    assert gathered(8, [0, 2, 5, 0]) == [[0, 1, 2, 3]]
    assert gathered(8, [0, 8, 0]) == [[0], [1, 2]]


def test_a_crowd_that_does_not_end_is_not_waited_for() -> None:
    groups = gathered(8, [0] + [2] * 60)
    assert len(groups) > 1
    assert max(len(group) for group in groups) <= Gathering.ROUNDS // 2 + 1
