from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from jitney.server.process.alarms import Alarms

LIMIT_S = 10.0


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    found = Alarms("t")
    found.open()
    yield found
    found.close()


def test_the_soonest_rings_first_whatever_the_order_of_asking(alarms: Alarms) -> None:
    rung: list[str] = []
    over = threading.Event()
    now = time.monotonic()
    alarms.set(over.set, now + 0.09)
    for name, after in (("b", 0.05), ("c", 0.07), ("a", 0.02)):
        alarms.set(partial(rung.append, name), now + after)
    assert over.wait(LIMIT_S)
    assert rung == ["a", "b", "c"]
    assert time.monotonic() >= now + 0.09


def test_a_ring_says_when_it_wants_the_next_one_and_an_earlier_wish_counts(alarms: Alarms) -> None:
    rung: list[float] = []
    over = threading.Event()

    def ring() -> float | None:
        rung.append(time.monotonic())
        if len(rung) == 3:
            over.set()
            return None
        return time.monotonic() + 0.01

    alarms.set(ring, time.monotonic() + 3600)
    alarms.set(ring, time.monotonic())
    assert over.wait(LIMIT_S)
    assert rung[2] - rung[0] >= 0.02


def test_what_is_forgotten_does_not_ring_and_what_fails_is_logged(alarms: Alarms, caplog: pytest.LogCaptureFixture) -> None:
    rung: list[int] = []
    over = threading.Event()

    def forgotten() -> None:
        rung.append(1)

    def fails() -> None:
        raise ZeroDivisionError

    now = time.monotonic()
    alarms.set(forgotten, now + 0.02)
    alarms.forget(forgotten)
    alarms.set(fails, now)
    alarms.set(over.set, now + 0.04)
    assert over.wait(LIMIT_S)
    assert not rung and "ZeroDivisionError" in caplog.text


def test_what_failed_is_tried_again(alarms: Alarms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitney.server.process.alarms.AGAIN_S", 0.02)
    rung: list[float] = []
    over = threading.Event()

    def ring() -> None:
        rung.append(time.monotonic())
        if len(rung) < 3:
            raise MemoryError
        over.set()

    alarms.set(ring, time.monotonic())
    assert over.wait(LIMIT_S)
    assert rung[1] - rung[0] >= 0.02
