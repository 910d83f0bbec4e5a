"""A model that answers in parts rests while no client of its worker reads them, and only as long as nobody else waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from jitney.core.call import Call
from jitney.core.errors import JitneyError
from jitney.core.request import Response

from .conftest import LIMIT_S, call_to, eventually

pytestmark = pytest.mark.usefixtures("reading")
#: Whether the model answers while `execute` runs, or from a thread of its own.
either = pytest.mark.parametrize("do", ["forever", "forever_later"])
#: Seconds without a part after which a model rests: it gives thousands in a second.
STILL_S = 0.3


class Stream:
    """A request that is answered without end; `parts` counts the answers."""

    def __init__(self, b: Any, do: str) -> None:
        self.b, self.parts = b, 0
        self.call = call_to(do)
        self.call.on_answer = self._count
        b.send(self.call)
        eventually(lambda: self.parts)

    def _count(self, answer: Response | JitneyError) -> None:
        self.parts += 1

    @property
    def stands_still(self) -> bool:
        before, until = self.parts, time.monotonic() + STILL_S
        while self.parts == before and time.monotonic() < until:
            time.sleep(0.001)
        return self.parts == before

    def is_slow(self, wanted: bool = False) -> None:
        self.b.pool.rests.begin(self.call, lambda: wanted)

    def goes_on(self) -> bool:
        before = self.parts
        return bool(eventually(lambda: self.parts > before))

    def leave(self) -> None:
        self.call.cancel()
        self.b.pool.cancel(self.call)


@either
def test_it_rests_and_goes_on(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up()
    stream = Stream(b, do)
    stream.is_slow()
    assert eventually(lambda: stream.stands_still) and b.pool.rests.resting
    b.pool.rests.over(stream.call)
    assert stream.goes_on() and not b.pool.rests.resting
    stream.leave()
    eventually(lambda: b.reports)


@either
def test_a_client_that_leaves_frees_it_at_once(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up()
    stream = Stream(b, do)
    stream.is_slow()
    eventually(lambda: stream.stands_still)
    stream.leave()
    eventually(lambda: b.reports)
    assert b.ask().final and not b.pool.rests.resting


@either
def test_another_request_is_not_kept_waiting(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up()
    stream = Stream(b, do)
    stream.is_slow()
    eventually(lambda: stream.stands_still)
    (other,) = b.send(call_to())
    assert stream.goes_on() and not b.pool.rests.resting
    if do == "forever_later":
        assert other.result(LIMIT_S).final
        stream.is_slow()
        assert eventually(lambda: stream.stands_still)  # the other one is over
    stream.leave()
    assert other.result(LIMIT_S).final if do == "forever" else other.done
    eventually(lambda: len(b.reports) == 2)


@either
def test_it_does_not_rest_while_a_request_waits_for_a_worker(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up()
    stream = Stream(b, do)
    stream.is_slow(wanted=True)
    assert not b.pool.rests.resting and stream.goes_on()
    stream.leave()
    eventually(lambda: b.reports)


def test_a_worker_with_several_streams_rests_when_all_of_their_clients_are_slow(bench: Callable[..., Any]) -> None:
    b = bench(decoupled=True).up()
    streams = [Stream(b, "forever_later") for _ in range(3)]
    for stream in streams[:2]:
        stream.is_slow()
    assert not b.pool.rests.resting and all(stream.goes_on() for stream in streams)
    streams[2].is_slow()
    assert eventually(lambda: all(stream.stands_still for stream in streams))
    b.pool.rests.over(streams[1].call)
    assert all(stream.goes_on() for stream in streams)
    streams[1].leave()
    eventually(lambda: b.reports)
    streams[0].is_slow()
    assert eventually(lambda: streams[0].stands_still and streams[2].stands_still)
    for stream in (streams[0], streams[2]):
        stream.leave()
    eventually(lambda: len(b.reports) == 3)


@either
def test_a_rest_is_no_silence(bench: Callable[..., Any], do: str) -> None:
    """Nor is it counted as time that the model took."""
    b = bench(decoupled=True, response_timeout_s=0.5).up()
    (pid,) = b.pids()
    stream = Stream(b, do)
    stream.is_slow()
    eventually(lambda: stream.stands_still)
    began = time.monotonic()
    while time.monotonic() < began + 1.3:
        assert stream.stands_still
    b.pool.rests.over(stream.call)
    assert stream.goes_on() and b.pids() == [pid]
    stream.leave()
    eventually(lambda: b.reports)
    if do == "forever":
        assert sum(b.reports[0].durations) < 1_300_000_000


@either
def test_who_is_to_end_does_not_rest(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up(1)
    stream = Stream(b, do)
    stream.is_slow()
    eventually(lambda: stream.stands_still)
    b.pool.scale(0)
    assert stream.goes_on() and not b.pool.rests.resting
    stream.is_slow()
    assert not b.pool.rests.resting
    stream.leave()
    eventually(lambda: not b.pool.workers())


@either
def test_a_worker_that_has_died_rests_no_longer(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up()
    stream = Stream(b, do)
    stream.is_slow()
    eventually(lambda: stream.stands_still)
    os.kill(b.pids()[0], signal.SIGKILL)
    eventually(lambda: b.reports)
    assert not b.pool.rests.resting
    eventually(b.pool.idle)
    again = Stream(b, do)
    assert again.goes_on()
    again.leave()
    eventually(lambda: len(b.reports) == 2)


@either
def test_a_call_that_no_worker_has(bench: Callable[..., Any], do: str) -> None:
    b = bench(decoupled=True).up()
    other: Call = call_to(do)
    b.pool.rests.begin(other, lambda: False)
    b.pool.rests.over(other)
    assert not b.pool.rests.resting and b.ask().final
