"""What one worker is and holds."""

from __future__ import annotations

from typing import Any

import pytest

from jitney.core.request import Instance
from jitney.server.process.backoff import Backoff
from jitney.server.workers.worker_state import Alarm, Held, Worker, WorkerState


@pytest.fixture
def worker() -> Worker[Any, Any]:
    """It executes "a", has left "o" open, and "b" and "c" wait."""
    made: Worker[Any, Any] = Worker(9000, Instance("m_0_0"), Backoff(300), WorkerState.BUSY, child="process")
    made.executing, made.running = "a", {"o": 5.0, "a": 6.0}
    made.waiting.extend("bc")
    return made


def test_what_it_holds_is_late_or_runs_or_waits(worker: Worker[Any, Any]) -> None:
    worker.note_late(5)
    assert (list(worker.batches()), worker.held, worker.unfinished) == (["o", "a", "b", "c"], 4, True)
    assert all(map(worker.holds, "oabc"))
    assert not worker.holds("d")
    for batch in "oabc":
        worker.remove(batch)
    worker.remove("a")
    assert (worker.held, worker.unfinished) == (0, False)


def test_what_is_late_rings_no_more_until_it_is_excused(worker: Worker[Any, Any]) -> None:
    assert (worker.next_alarm(), worker.alarm_means()) == (5, Alarm.ANSWERING)
    worker.note_late(5)
    assert (worker.late, worker.next_alarm()) == (["o"], 6)
    worker.excuse(9)
    assert (worker.late, worker.running, worker.next_alarm()) == ([], {"a": 6, "o": 9}, 6)


def test_the_alarm_of_its_life_is_the_next_where_it_is_the_sooner(worker: Worker[Any, Any]) -> None:
    worker.alarm = 4
    assert worker.next_alarm() == 4
    worker.alarm = 7
    assert worker.next_alarm() == 5
    worker.running.clear()
    assert worker.next_alarm() == 7
    worker.alarm = None
    assert worker.next_alarm() is None


def test_what_its_alarm_means_depends_on_where_it_is_in_its_life(worker: Worker[Any, Any]) -> None:
    worker.lose_process()
    assert worker.alarm_means() is Alarm.START
    worker.child = "process"
    assert worker.alarm_means() is Alarm.LOADING
    worker.leaving = True
    assert worker.alarm_means() is Alarm.STOPPING


def test_a_batch_that_never_arrived_is_taken_back_once(worker: Worker[Any, Any]) -> None:
    assert [worker.take_back(name) for name in ("b", "b", "a", "a", "x")] == [True, False, True, False, False]
    assert (worker.executing, worker.deaf, worker.lose_process()) == (None, True, Held(["o"], ["c"]))


def test_a_worker_without_its_process_holds_nothing(worker: Worker[Any, Any]) -> None:
    worker.note_late(5)
    assert worker.lose_process() == Held(["o", "a"], ["b", "c"])
    assert (worker.child, worker.executing, worker.alarm, worker.held, worker.deaf) == (None, None, None, 0, False)
    assert not worker.take_back("a")
