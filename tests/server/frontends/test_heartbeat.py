"""When a front end that stands still is given up: after looks in a row, and never while it answers."""

from __future__ import annotations

import threading

from jitney.server.frontends.heartbeat import LOOK_S, REST_LOOKS, SILENT_LOOKS, STOPPED_LOOKS, Heartbeat


def asked_once_due(heartbeat: Heartbeat) -> threading.Event:
    """Looks until it is to be asked, and asks."""
    for _ in range(REST_LOOKS):
        assert not heartbeat.asks
        assert heartbeat.look(stopped=False) == ""
    assert heartbeat.asks
    heartbeat.asked(event := threading.Event())
    return event


def test_one_that_answers_is_never_given_up() -> None:
    heartbeat = Heartbeat()
    for _ in range(20):
        answered = asked_once_due(heartbeat)
        for _ in range(SILENT_LOOKS - 1):
            assert heartbeat.look(stopped=False) == ""
        answered.set()
        assert heartbeat.look(stopped=False) == ""


def test_one_that_no_longer_answers_is_given_up_after_so_many_looks() -> None:
    heartbeat = Heartbeat()
    asked_once_due(heartbeat)
    found = [heartbeat.look(stopped=False) for _ in range(SILENT_LOOKS)]
    assert found == [""] * (SILENT_LOOKS - 1) + [f"it has done nothing for {SILENT_LOOKS * LOOK_S:g} s"]


def test_one_that_a_signal_has_stopped_is_given_up_when_it_stays_so() -> None:
    heartbeat = Heartbeat()
    for _ in range(3):
        for _ in range(STOPPED_LOOKS - 1):
            assert heartbeat.look(stopped=True) == ""
        assert heartbeat.look(stopped=False) == ""  # it goes on
    found = [heartbeat.look(stopped=True) for _ in range(STOPPED_LOOKS)]
    assert found == [""] * (STOPPED_LOOKS - 1) + ["it was stopped by a signal"]
