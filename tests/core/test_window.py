from __future__ import annotations

from jitney.core.holding import PART
from jitney.core.window import NBYTES, Ahead, Window


def test_what_was_taken_is_told_now_and_then() -> None:
    told: list[int] = []
    window = Window(told.append)
    for _ in range(2 * NBYTES // PART):
        window.took(0)
    assert told == [NBYTES // 4 // PART] * 8
    window.took(NBYTES)
    assert told[8:] == [1]


def test_no_more_is_sent_than_the_window_holds_and_one_part() -> None:
    ahead = Ahead()
    while ahead.has_room(spares=False):
        ahead.sent(NBYTES // 2)
    assert not ahead.has_room(spares=True)
    ahead.taken(1)
    assert ahead.has_room(spares=False) and not ahead.has_room(spares=True)
    ahead.taken(1)
    assert ahead.has_room(spares=True)


def test_a_part_that_was_told_twice_takes_no_room_that_there_is_not() -> None:
    ahead = Ahead()
    ahead.sent(NBYTES)
    ahead.taken(7)
    assert ahead.has_room(spares=True)
    ahead.sent(NBYTES)
    assert not ahead.has_room(spares=False)


def test_whatever_is_not_told_leaves_room() -> None:
    """Else a stream would stand still: the client has taken all that it has, and nobody says so."""
    ahead, waiting = Ahead(), [PART * size for size in (0, 3, 200, 255, 256, 1023, 5000)] * 50
    window = Window(ahead.taken)
    for nbytes in waiting:
        assert ahead.has_room(spares=False)
        ahead.sent(nbytes)
        window.took(nbytes)
