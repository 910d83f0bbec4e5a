"""When a front end that stands still is given up: after looks in a row, and never while it answers."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

from jitney.server.frontends.frontend_process import FrontendProcess
from jitney.server.frontends.heartbeat import LOOK_S, REST_LOOKS, SILENT_LOOKS, STOPPED_LOOKS, Heartbeat


def asked_once_due(heartbeat: Heartbeat) -> threading.Event:
    """Looks until it is to be asked, and asks."""
    for _ in range(REST_LOOKS):
        assert not heartbeat.asks
        assert heartbeat.look(stopped=False, heard=False) == ""
    assert heartbeat.asks
    heartbeat.asked(event := threading.Event())
    return event


def test_one_that_answers_is_never_given_up() -> None:
    heartbeat = Heartbeat()
    for _ in range(20):
        answered = asked_once_due(heartbeat)
        for _ in range(SILENT_LOOKS - 1):
            assert heartbeat.look(stopped=False, heard=False) == ""
        answered.set()
        assert heartbeat.look(stopped=False, heard=False) == ""


def test_one_that_no_longer_answers_is_given_up_after_so_many_looks() -> None:
    heartbeat = Heartbeat()
    asked_once_due(heartbeat)
    found = [heartbeat.look(stopped=False, heard=False) for _ in range(SILENT_LOOKS)]
    assert found == [""] * (SILENT_LOOKS - 1) + [f"it has done nothing for {SILENT_LOOKS * LOOK_S:g} s"]


def test_one_that_does_anything_meanwhile_is_not_given_up() -> None:
    heartbeat = Heartbeat()
    answered = asked_once_due(heartbeat)
    for number in range(10 * SILENT_LOOKS):
        assert heartbeat.look(stopped=False, heard=number % (SILENT_LOOKS - 1) == 0) == ""
    answered.set()
    assert heartbeat.look(stopped=False, heard=False) == ""


def test_one_that_a_signal_has_stopped_is_given_up_when_it_stays_so() -> None:
    heartbeat = Heartbeat()
    for _ in range(3):
        for _ in range(STOPPED_LOOKS - 1):
            assert heartbeat.look(stopped=True, heard=False) == ""
        assert heartbeat.look(stopped=False, heard=False) == ""  # it goes on
    found = [heartbeat.look(stopped=True, heard=False) for _ in range(STOPPED_LOOKS)]
    assert found == [""] * (STOPPED_LOOKS - 1) + ["it was stopped by a signal"]


def test_what_a_front_end_sends_or_reads_late_is_a_sign_of_life() -> None:
    """Also where it is the server that does not come to reading what is there."""
    ours, theirs = socket.socketpair()
    child: Any = FrontendProcess.__new__(FrontendProcess)
    child._socket, child._heard, child._read_late = ours, False, 0
    child.send_queue, child.session = SimpleNamespace(late=0), SimpleNamespace(take=lambda messages: None)
    with ours, theirs:
        assert not child._gives_a_sign()
        child.send_queue.late = 7
        assert child._gives_a_sign() and not child._gives_a_sign()
        child._take(b"\xdd\0\0\0\0")  # a frame without messages
        assert child._gives_a_sign() and not child._gives_a_sign()
        theirs.send(b"x")
        assert child._gives_a_sign() and child._gives_a_sign()
    assert not child._gives_a_sign()
