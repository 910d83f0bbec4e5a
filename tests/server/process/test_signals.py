"""Signals reach the main thread whenever they come, also in the instant before it goes to sleep."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from jitney.server.process.signals import ENDING, Signals, received


def test_a_signal_that_came_before_anybody_waited_is_there() -> None:
    with received() as got:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (got.get(), got.get_nowait()) == (signal.SIGTERM, None)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_another_thread_gets_wakes_the_main_thread(number: signal.Signals) -> None:
    """The system may hand a process' signal to any thread, whose system calls alone it interrupts."""
    with received() as got:
        release = threading.Event()
        other = threading.Thread(target=release.wait)
        other.start()
        assert other.ident is not None
        sender = threading.Timer(0.05, signal.pthread_kill, (other.ident, number))
        sender.start()
        assert got.get() == number
        release.set()
        sender.join()
        other.join()
        assert got.get_nowait() is None


def test_who_reads_gets_them_in_order_and_a_flood_does_no_harm() -> None:
    signals = Signals()
    for number in (0, 15, 1):
        signals.put(number)
    assert [signals.get(), signals.get_nowait(), signals.get()] == [0, 15, 1]
    for _ in range(100_000):
        signals.put(2)
    assert signals.get() == 2
    signals.close()


def test_handlers_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in ENDING}
    with received():
        os.kill(os.getpid(), signal.SIGHUP)
    assert {number: signal.getsignal(number) for number in ENDING} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_an_ignored_hangup_stays_ignored() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with received() as got:
            os.kill(os.getpid(), signal.SIGHUP)
            assert got.get_nowait() is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
