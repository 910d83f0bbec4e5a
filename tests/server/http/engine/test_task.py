"""The threads of a listener: as many as are needed at once, at most as many as allowed, and no fewer tasks done for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from jitney.core.errors import TooFewThreads
from jitney.server.http.engine.task import Job, TaskPool
from jitney.tools.bench.served import wait_until

PATIENCE = 10.0


class Held:
    """Tasks that run until released; `running` is how many do now."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def job(self) -> Job:
        def work() -> None:
            self.started.release()
            assert self.release.wait(PATIENCE)
            self.done.release()

        return Job(work)


@pytest.fixture
def dispatcher() -> Iterator[TaskPool]:
    made = TaskPool("test")
    yield made
    made.shutdown(timeout=PATIENCE)
    assert not made.threads


def test_a_thread_for_each_task_that_finds_none_idle_up_to_the_most(dispatcher: TaskPool) -> None:
    held = Held()
    dispatcher.start(3)
    assert len(dispatcher.threads) == 1
    for _ in range(5):
        dispatcher.add_task(held.job())
    for _ in range(3):
        assert held.started.acquire(timeout=PATIENCE)
    assert len(dispatcher.threads) == 3
    assert not held.started.acquire(timeout=0.05)
    held.release.set()
    for _ in range(5):
        assert held.done.acquire(timeout=PATIENCE)


def test_tasks_one_after_the_other_need_one_thread(dispatcher: TaskPool) -> None:
    dispatcher.start(10)
    for _ in range(20):
        wait_until(lambda: not dispatcher.active_count, PATIENCE, "the thread to wait again")
        held = Held()
        held.release.set()
        dispatcher.add_task(held.job())
        assert held.done.acquire(timeout=PATIENCE)
    assert len(dispatcher.threads) == 1


def refusing(dispatcher: TaskPool, allowed: int) -> Callable[[Callable[[int], None], int], None]:
    """`start_new_thread` on a system that has so many threads left."""
    start, left = dispatcher.start_new_thread, iter(range(allowed))

    def start_new_thread(target: Callable[[int], None], number: int) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(target, number)

    return start_new_thread


def test_where_the_system_has_no_more_threads_tasks_wait_for_those_there_are(
    dispatcher: TaskPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatcher, "start_new_thread", refusing(dispatcher, 2))
    held = Held()
    dispatcher.start(10)
    for _ in range(6):
        dispatcher.add_task(held.job())
    assert held.started.acquire(timeout=PATIENCE) and held.started.acquire(timeout=PATIENCE)
    assert len(dispatcher.threads) == 2
    held.release.set()
    for _ in range(6):
        assert held.done.acquire(timeout=PATIENCE)
    assert caplog.messages == ["listener 'test' goes on with 2 threads: can't start new thread"]


def test_without_a_single_thread_it_does_not_start(dispatcher: TaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "start_new_thread", refusing(dispatcher, 0))
    with pytest.raises(TooFewThreads, match="no thread left for the requests of listener 'test'"):
        dispatcher.start(10)
    assert not dispatcher.threads and not dispatcher.active_count


def test_nothing_starts_after_the_end() -> None:
    dispatcher = TaskPool("test")
    dispatcher.start(5)
    dispatcher.shutdown(timeout=PATIENCE)
    dispatcher.add_task(Held().job())
    assert not dispatcher.threads
