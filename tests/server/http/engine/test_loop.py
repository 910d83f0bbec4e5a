"""When the loop of all connections gives clients up. The rest of it: test_listener, test_reactor."""

from __future__ import annotations

from jitney.server.http.engine.loop import LATE_S, Loop


def test_nobody_is_given_up_by_a_loop_that_comes_late_itself() -> None:
    """The machine or the server stood still: what clients have sent meanwhile is not read yet."""
    loop = Loop("test")
    loop._due = 100.0
    looks = [
        (100.0, True),
        (105.5, True),
        (110.5 + LATE_S, True),
        (200.0, False),
        (205.0, True),
        (300.0, False),
        (400.0, True),
    ]
    assert [loop._is_fair(now, 5.0) for now, _ in looks] == [fair for _, fair in looks]
    loop.close()
