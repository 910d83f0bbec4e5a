from __future__ import annotations

import queue
import threading
import time
from functools import partial

import pytest

from jitney.server.process.helpers import Helpers

LIMIT_S = 10.0


def used_by(helpers: Helpers) -> threading.Thread:
    """The thread that did a piece of work."""
    found: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    helpers.submit(lambda: found.put(threading.current_thread()))
    return found.get(timeout=LIMIT_S)


def fail() -> None:
    raise ZeroDivisionError


def test_work_runs_side_by_side_up_to_the_limit_and_in_order_beyond() -> None:
    helpers, gate, begun = Helpers("t", 2), threading.Event(), []
    running = threading.Semaphore(0)

    def work(number: int) -> None:
        begun.append(number)
        running.release()
        assert gate.wait(LIMIT_S)

    for number in range(5):
        helpers.submit(partial(work, number))
    assert running.acquire(timeout=LIMIT_S) and running.acquire(timeout=LIMIT_S)
    assert sorted(begun) == [0, 1]
    gate.set()
    helpers.close()
    assert sorted(begun) == [0, 1, 2, 3, 4] and begun.index(2) < begun.index(4)


def test_a_thread_without_work_ends_after_a_while_and_the_next_work_gets_another() -> None:
    helpers = Helpers("t", 4, idle_s=0.01)
    names: list[threading.Thread] = []
    for _ in range(2):
        names.append(used_by(helpers))
        deadline = time.monotonic() + LIMIT_S
        while names[-1].is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.002)
    assert names[0] is not names[1]
    helpers.close()


def test_a_thread_that_waits_is_used_again() -> None:
    helpers = Helpers("t", 4)
    helpers.open()
    assert len({used_by(helpers) for _ in range(20)}) <= 2  # the one before may not have begun to wait yet
    helpers.close()


def test_work_that_fails_is_logged_and_the_next_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    helpers, done = Helpers("t", 1), threading.Event()
    helpers.submit(fail)
    helpers.submit(done.set)
    assert done.wait(LIMIT_S)
    helpers.close()
    assert "ZeroDivisionError" in caplog.text


def test_without_a_thread_who_submits_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    helpers, by = Helpers("t", 2), []
    with pytest.raises(RuntimeError):
        helpers.open()
    helpers.submit(lambda: by.append(threading.current_thread()))
    assert by == [threading.current_thread()]
    helpers.close()
