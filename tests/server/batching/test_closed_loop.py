"""Clients that ask again as soon as they are answered are recognised, and no others."""

from __future__ import annotations

import random

import pytest

from jitney.server.batching.closed_loop import LONGEST_S, SHARE, WORTH_S, ClosedLoop

TOOK = 0.006


def returning(loop: ClosedLoop, batches: int, rows: int = 4, back: int = 4, after: float = 0.0005, at: float = 0.0) -> float:
    """So many batches, of whose rows `back` come again; when the last one is over."""
    for _ in range(batches):
        at += TOOK
        loop.answered(at, rows, TOOK)
        for _ in range(back):
            loop.arrived(at + after, 1)
    return at


def test_the_next_batch_waits_for_clients_that_come_straight_back_until_the_last_of_them() -> None:
    loop = ClosedLoop()
    at = returning(loop, 40) + TOOK
    loop.answered(at, 4, TOOK)
    assert loop.returns
    assert loop.waits_until(at) == pytest.approx(at + LONGEST_S)
    loop.arrived(at + 0.0001, 3)
    assert loop.waits_until(at + 0.0001) > at + 0.0001
    loop.arrived(at + 0.0002, 1)
    assert loop.waits_until(at + 0.0002) == at + 0.0002


def test_it_waits_for_a_part_of_the_batchs_time_and_no_longer() -> None:
    loop = ClosedLoop()
    at = returning(loop, 40) + TOOK
    loop.answered(at, 4, 0.003)
    assert loop.waits_until(at) == pytest.approx(at + SHARE * 0.003)
    assert loop.waits_until(at + 0.0011) == at + 0.0011
    loop.answered(at, 4, WORTH_S * 0.99)
    assert loop.waits_until(at) == at


def test_nothing_waits_before_it_is_known_nor_for_clients_that_take_their_time() -> None:
    loop = ClosedLoop()
    at = returning(loop, 5)
    assert (loop.returns, loop.waits_until(at)) == (False, at)
    returning(slow := ClosedLoop(), 100, after=0.0021)
    assert not slow.returns


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_nothing_waits_where_requests_come_at_random(load: float) -> None:
    """A device of 3 ms + 0.2 ms a row, whatever its load."""
    dice, loop = random.Random(1), ClosedLoop()
    at, waiting = 0.0, 0
    coming = dice.expovariate(load * 3400)
    for _ in range(3000):
        at = max(at, coming) if not waiting else at
        while coming <= at:
            loop.arrived(coming, 1)
            waiting, coming = waiting + 1, coming + dice.expovariate(load * 3400)
        rows = min(waiting, 32)
        took = 0.003 + 0.0002 * rows
        while coming <= at + took:
            loop.arrived(coming, 1)
            waiting, coming = waiting + 1, coming + dice.expovariate(load * 3400)
        at, waiting = at + took, waiting - rows
        loop.answered(at, rows, took)
        assert not loop.returns


def test_where_some_stay_away_waiting_goes_on_for_a_while_and_then_ends() -> None:
    """What ended begins again only where next to all come back."""
    loop, at, known = ClosedLoop(), 0.0, []
    for back in (10, 9, 7, 9, 10):
        at = returning(loop, 100, rows=10, back=back, at=at)
        known.append(loop.returns)
    assert known == [True, True, False, False, True]


def test_more_than_came_back_is_no_more_than_all() -> None:
    loop = ClosedLoop()
    at = returning(loop, 20, rows=1, back=8)
    at = returning(loop, 3, rows=1, back=0, at=at)
    assert not loop.returns
