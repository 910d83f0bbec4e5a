from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import DataObject

from jitney.core.request import Instance
from jitney.server.workers.roster import OVERSLEPT_S, RECALL_S, STOP_GRACE_S, Roster
from jitney.server.workers.worker_state import Alarm, Held, Worker, WorkerState


def place(n: int) -> Instance:
    return Instance(f"m_0_{n}")


@pytest.fixture
def roster() -> Roster[Any, Any]:
    return Roster(startup_s=60, response_s=5, give_up_after_s=300)


def hire(roster: Roster[Any, Any], count: int, now: float = 0.0) -> list[Worker[Any, Any]]:
    """Members that are loaded and idle."""
    roster.resize(count, now, place)
    for worker, alarm in roster.due(now):
        assert alarm is Alarm.START
        roster.started(worker, object(), now)
        roster.loaded(worker, now)
    return list(roster.members)


def test_a_new_member_is_to_be_started_at_once_and_reported_once(roster: Roster[Any, Any]) -> None:
    roster.resize(2, 10, place)
    assert [w.instance.name for w, a in roster.due(10) if a is Alarm.START] == ["m_0_0", "m_0_1"]
    assert roster.due(10) == []
    assert roster.wake_at() is None
    assert (roster.target, roster.ready()) == (2, 0)


def test_loading_has_its_own_limit(roster: Roster[Any, Any]) -> None:
    roster.resize(1, 0, place)
    ((worker, _),) = roster.due(0)
    roster.started(worker, "process", 1)
    assert roster.wake_at() == 61
    assert roster.due(60.9) == []
    assert roster.due(61) == [(worker, Alarm.LOADING)]


def test_whoever_looks_too_late_gives_processes_their_time_anew(roster: Roster[Any, Any]) -> None:
    """The server was stopped, or got no processor: what they sent is not read yet, or they were stopped too."""
    first, _, third = hire(roster, 3)
    assert roster.take("batch", 0) is third
    assert roster.resize(2, 0, place) == []
    roster.gone(first, 0, "killed", load_failed=False)
    assert roster.due(0) == [(first, Alarm.START)]
    roster.started(first, "process", 0)
    assert roster.due(5 + OVERSLEPT_S + 0.1) == [] and third.late == []
    assert roster.due(11) == [] and roster.due(12) == [(third, Alarm.ANSWERING)]
    assert (third.late, roster.hangs(third)) == (["batch"], True)
    roster.release(third, "batch", 12)
    late = 12 + STOP_GRACE_S + 100
    assert roster.due(late) == []
    assert roster.due(late + STOP_GRACE_S) == [(third, Alarm.STOPPING)]
    assert roster.due(late + 60) == [(first, Alarm.LOADING)]


def test_what_is_to_be_started_is_started_however_late(roster: Roster[Any, Any]) -> None:
    roster.resize(1, 0, place)
    assert roster.due(100) == [(roster.members[0], Alarm.START)]


def test_a_worker_that_finished_a_batch_is_started_again_soon(roster: Roster[Any, Any]) -> None:
    (worker,) = hire(roster, 1)
    delays = []
    for life in range(8):
        began = 100.0 * life
        assert roster.take("right", began) is worker
        roster.release(worker, "right", began)
        assert roster.take("fatal", began) is worker
        roster.gone(worker, began + 1, "killed", load_failed=False)
        assert worker.alarm is not None
        delays.append(worker.alarm - began - 1)
        roster.started(worker, object(), worker.alarm)
        roster.loaded(worker, began + 99)
    assert delays == [0, 1, 1, 2, 2, 2, 2, 2]


def test_a_batch_has_a_limit_that_signs_of_life_extend(roster: Roster[Any, Any]) -> None:
    (worker,) = hire(roster, 1)
    assert roster.wake_at() is None  # an idle worker needs no timer
    assert roster.take("batch", 10) is worker
    assert worker.state is WorkerState.BUSY
    roster.progress(worker, "batch", 12)
    assert roster.due(16.9) == []
    assert roster.due(17) == [(worker, Alarm.ANSWERING)]
    assert (worker.late, roster.hangs(worker), roster.due(17)) == (["batch"], True, [])
    roster.release(worker, "batch", 18)
    assert (worker.state, roster.wake_at(), roster.idle) == (WorkerState.READY, None, [worker])


def test_without_limits_there_is_no_timer() -> None:
    roster: Roster[Any, Any] = Roster(startup_s=0, response_s=0, give_up_after_s=300)
    hire(roster, 1)
    roster.take("batch", 10)
    assert roster.wake_at() is None


def test_the_worker_that_worked_last_works_next(roster: Roster[Any, Any]) -> None:
    hire(roster, 3)
    first = roster.take("a", 0)
    second = roster.take("b", 0)
    assert first is not None and second is not None
    roster.release(first, "a", 1)
    roster.release(second, "b", 1)
    assert roster.take("c", 2) is second


def test_nobody_idle_takes_nothing(roster: Roster[Any, Any]) -> None:
    hire(roster, 1)
    roster.take("a", 0)
    assert roster.take("b", 0) is None


def test_a_death_returns_the_batch_and_the_member_comes_back_at_once(roster: Roster[Any, Any]) -> None:
    (worker,) = hire(roster, 1)
    roster.take("batch", 100)
    assert roster.gone(worker, 100, "killed", load_failed=False) == Held(["batch"], [])
    assert (worker.state, worker.error, worker.restarts) == (WorkerState.BACKOFF, "killed", 1)
    assert roster.due(100) == [(worker, Alarm.START)]
    roster.started(worker, "again", 100)
    roster.loaded(worker, 101)
    assert (worker.state, worker.error) == (WorkerState.READY, "")
    assert worker.id == roster.members[0].id


def test_the_first_load_that_fails_is_final_unless_retry_is_asked_for(roster: Roster[Any, Any]) -> None:
    roster.resize(1, 0, place)
    ((worker, _),) = roster.due(0)
    roster.started(worker, "p", 0)
    roster.gone(worker, 1, "no weights", load_failed=True)
    assert worker.state is WorkerState.FAILED
    assert roster.refused() is worker
    assert roster.no_workers_left()
    roster.resize(1, 2, place)  # scaling again repairs
    assert roster.refused() is None
    assert roster.due(2) == [(worker, Alarm.START)]
    roster.retry = True
    roster.started(worker, "p", 2)
    roster.gone(worker, 3, "no weights", load_failed=True)
    assert (worker.state, roster.refused()) == (WorkerState.BACKOFF, worker)
    assert roster.no_workers_left()  # as far as anybody knows: who waits now hears why at once
    roster.started(worker, "p", 4)
    assert roster.no_workers_left()
    roster.loaded(worker, 5)
    assert not roster.no_workers_left()


def test_a_model_is_not_without_workers_while_one_of_its_workers_has_not_yet_tried_to_load_it(
    roster: Roster[Any, Any],
) -> None:
    roster.retry = True
    roster.resize(2, 0, place)
    (first, _), (second, _) = roster.due(0)
    roster.started(first, "p", 0)
    roster.started(second, "q", 0)
    roster.gone(first, 1, "no weights", load_failed=True)
    assert not roster.no_workers_left()
    roster.gone(second, 1, "no weights", load_failed=True)
    assert roster.no_workers_left()


def test_a_worker_that_died_while_it_served_leaves_hope(roster: Roster[Any, Any]) -> None:
    (worker,) = hire(roster, 1)
    roster.gone(worker, 1, "killed", load_failed=False)
    assert not roster.no_workers_left()
    roster.due(1)
    roster.started(worker, "p", 1)
    roster.gone(worker, 2, "no weights", load_failed=True)
    assert roster.no_workers_left()


def test_only_so_many_load_at_once_and_the_next_start_when_one_is_through() -> None:
    roster: Roster[Any, Any] = Roster(startup_s=60, response_s=5, give_up_after_s=300, at_once=2)
    roster.resize(4, 0, place)
    (first, _), (second, _) = roster.due(0)
    roster.started(first, "p", 0)
    roster.started(second, "q", 0)
    assert (roster.due(0), roster.wake_at(), roster.loading()) == ([], 60, 2)
    roster.loaded(first, 1)
    ((third, alarm),) = roster.due(1)
    assert (third.instance.name, alarm) == ("m_0_2", Alarm.START)
    roster.started(third, "r", 1)
    assert roster.due(1) == []
    roster.gone(second, 2, "no weights", load_failed=True)
    assert [w.instance.name for w, _ in roster.due(2)] == ["m_0_3"]


def test_what_is_being_started_takes_its_turn_before_it_has_a_process() -> None:
    roster: Roster[Any, Any] = Roster(startup_s=60, response_s=5, give_up_after_s=300, at_once=1)
    roster.resize(2, 0, place)
    ((first, _),) = roster.due(0)
    assert (roster.due(0), roster.wake_at(), roster.loading(), roster.starting()) == ([], None, 0, 1)
    roster.started(first, "p", 0)
    assert (roster.due(0), roster.loading(), roster.starting()) == ([], 1, 0)


def test_a_worker_that_waits_for_its_next_attempt_takes_nobodys_turn() -> None:
    roster: Roster[Any, Any] = Roster(startup_s=60, response_s=5, give_up_after_s=300, at_once=1)
    (worker,) = hire(roster, 1)
    for n in range(3):  # its next attempt is some seconds away
        roster.gone(worker, n, "killed", load_failed=False)
        if n < 2:
            roster.due(n + 5)
            roster.started(worker, "p", n + 5)
            roster.loaded(worker, n + 5)
    assert (worker.alarm or 0) > 2
    roster.resize(2, 2, place)
    assert [w for w, _ in roster.due(2)] == [roster.members[1]]


def test_once_loaded_a_model_is_tried_again_until_it_is_given_up(roster: Roster[Any, Any]) -> None:
    (worker,) = hire(roster, 1)
    now = 100.0
    roster.gone(worker, now, "killed", load_failed=False)
    while worker.state is WorkerState.BACKOFF:
        now = roster.wake_at() or 0.0
        roster.due(now)
        roster.started(worker, "p", now)
        roster.gone(worker, now + 1, "no weights", load_failed=True)
        now += 1
    assert worker.state is WorkerState.FAILED
    assert 300 <= now - 100 <= 340


def test_leaving_lets_batches_finish(roster: Roster[Any, Any]) -> None:
    workers = hire(roster, 3)
    busy = roster.take("batch", 0)
    assert busy is workers[2]
    stopped = roster.resize(1, 1, place)
    assert stopped == [workers[1]]
    assert (busy.state, busy.leaving, busy.executing) == (WorkerState.STOPPING, True, "batch")
    assert roster.idle == [workers[0]]
    assert set(roster.processes()) == {w.child for w in workers}
    assert roster.due(5) == [(busy, Alarm.ANSWERING)]  # its batch keeps its limit
    roster.release(busy, "batch", 6)
    assert busy not in roster.idle
    assert roster.due(1 + STOP_GRACE_S) == [(workers[1], Alarm.STOPPING)]
    assert roster.due(6 + STOP_GRACE_S) == [(busy, Alarm.STOPPING)]
    for worker in (workers[1], busy):
        assert roster.gone(worker, 40, "", load_failed=False) == Held([], [])
    assert roster.leaving == []
    assert roster.processes() == [workers[0].child]


def test_a_member_dismissed_while_its_process_is_being_made(roster: Roster[Any, Any]) -> None:
    roster.resize(1, 0, place)
    ((worker, _),) = roster.due(0)
    assert roster.resize(0, 0, place) == []
    assert roster.started(worker, "p", 0) is False
    assert roster.processes() == ["p"]
    roster.gone(worker, 1, "", load_failed=True)
    assert roster.processes() == []


def test_growing_takes_new_ids_and_keeps_those_that_work(roster: Roster[Any, Any]) -> None:
    (first,) = hire(roster, 1)
    roster.take("batch", 0)
    roster.resize(2, 0, place)
    assert roster.members[0] is first
    assert first.executing == "batch"
    assert roster.members[1].id > first.id >= 9000


def test_no_workers_left_means_that_none_can_come(roster: Roster[Any, Any]) -> None:
    assert roster.no_workers_left()
    hire(roster, 1)
    busy = roster.take("batch", 0)
    roster.resize(0, 0, place)
    assert not roster.no_workers_left()  # it finishes, and at a shutdown takes what waits
    assert busy is not None
    roster.release(busy, "batch", 1)
    assert roster.no_workers_left()


def several(in_flight: int, overlaps: bool = False, together: bool = False) -> Roster[Any, Any]:
    return Roster(
        startup_s=60, response_s=5, give_up_after_s=300, in_flight=lambda _: in_flight, overlaps=overlaps, together=together
    )


def test_full_batches_wait_in_busy_workers_first_in_the_one_that_began_first() -> None:
    roster = several(3)
    older, newer = hire(roster, 2)
    assert (roster.ahead(), roster.take_ahead("x", 0)) == (0, None)  # for idle workers nothing is sent ahead
    assert (roster.take("a", 0), roster.take("b", 1)) == (newer, older)
    assert roster.ahead() == 4
    assert [roster.take_ahead(name, 2) for name in "cdef"] == [newer, older, newer, older]
    assert (roster.ahead(), roster.take_ahead("g", 2)) == (0, None)
    roster.release(newer, "a", 3)
    assert (newer.executing, list(newer.waiting), newer.state, roster.idle) == ("c", ["e"], WorkerState.BUSY, [])
    assert roster.ahead() == 1


def foreseeing(lasts: float = 3.0, trip: float = 1.0) -> Roster[Any, Any]:
    """All batches take so long, their way to the worker and back not counted."""
    return Roster(startup_s=60, response_s=5, give_up_after_s=300, lasts=lambda batch: (lasts, trip))


def test_a_batch_may_leave_when_it_will_find_the_worker_done() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    assert roster.ending(0) == (0, inf)
    roster.take("a", 10)
    assert (roster.ending(12.9), roster.take_ahead("b", 12.9)) == ((0, 13), None)
    assert roster.ending(13) == (1, inf)  # it began at 10.5 and ends at 13.5, which is known at 14
    assert roster.take_ahead("b", 13) is worker
    assert (roster.ending(13), roster.take_ahead("c", 13)) == ((0, inf), None)
    roster.release(worker, "a", 14)
    assert (worker.executing, roster.ending(15.9), roster.ending(16)) == ("b", (0, 16), (1, inf))  # from 13.5 to 16.5
    roster.release(worker, "b", 17)
    assert (roster.idle, roster.ending(17)) == ([worker], (0, inf))


def test_a_worker_that_should_have_been_done_long_ago_gets_nothing_early() -> None:
    roster = foreseeing()
    hire(roster, 1)
    roster.take("a", 10)
    assert (roster.ending(14.9), roster.ending(15)) == ((1, inf), (0, inf))
    assert roster.take_ahead("b", 15) is None


def test_what_was_sent_early_is_asked_back_where_the_batch_before_it_takes_longer_than_foreseen() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    roster.take("a", 10)
    roster.take_ahead("b", 13)
    overdue = 15 + RECALL_S
    assert (roster.wake_at(), roster.due(overdue - 0.01)) == (15, [(worker, Alarm.ANSWERING)])
    roster.progress(worker, "a", 15)
    assert (roster.wake_at(), roster.due(overdue)) == (overdue, [(worker, Alarm.RECALL)])
    assert (roster.wake_at(), roster.due(overdue)) == (20, [])  # it is asked once
    assert roster.recalled(worker, "b", 16)
    assert (worker.executing, worker.held, roster.idle) == ("a", 1, [])
    assert (roster.ending(16), roster.recalled(worker, "b", 16)) == ((0, inf), False)


def test_what_comes_to_its_turn_in_time_is_not_asked_back() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    roster.take("a", 10)
    roster.take_ahead("b", 13)
    roster.release(worker, "a", 14)
    assert roster.wake_at() == 19
    assert [alarm for _, alarm in roster.due(19)] == [Alarm.ANSWERING]


def test_a_batch_that_comes_back_after_the_one_before_it_was_over_leaves_the_worker_idle() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    roster.take("a", 10)
    roster.take_ahead("b", 13)
    roster.release(worker, "a", 16)
    assert worker.executing == "b"
    assert roster.recalled(worker, "b", 17)
    assert (worker.executing, worker.held, roster.idle, worker.state) == (None, 0, [worker], WorkerState.READY)


def test_what_waits_behind_a_model_that_asks_another_one_is_asked_back_at_once() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    roster.take("a", 10)
    roster.take_ahead("b", 13)
    assert roster.asks(worker, 13.5)
    assert not roster.asks(worker, 13.6)  # which is on its way
    assert roster.wake_at() == 13.5
    assert roster.due(13.6) == [(worker, Alarm.RECALL)]


def test_a_worker_whose_execute_has_returned_is_about_to_end_nothing() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    roster.take("a", 10)
    roster.returned(worker, "a", 13)
    assert (roster.ending(13), roster.take_ahead("b", 13)) == ((0, inf), None)


def test_full_batches_ahead_are_not_asked_back_where_no_end_is_foreseen() -> None:
    roster = several(2)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.take_ahead("b", 0)
    roster.asks(worker, 1)
    assert (worker.recall_at, roster.wake_at()) == (inf, 5)


def test_a_batch_goes_to_the_worker_whose_end_is_sooner_though_it_began_later() -> None:
    lasts = {"long": 6.0, "short": 2.0}
    roster: Roster[Any, Any] = Roster(
        startup_s=60, response_s=0, give_up_after_s=300, lasts=lambda batch: (lasts.get(batch, inf), 3.0)
    )
    second, first = hire(roster, 2)
    assert (roster.take("long", 0), roster.take("short", 3)) == (first, second)
    assert roster.ending(7) == (2, inf)
    assert [roster.take_ahead(name, 7) for name in "ab"] == [second, first]


def test_of_several_the_one_that_is_done_first_gets_the_batch() -> None:
    roster = foreseeing()
    older, newer = hire(roster, 2)
    assert (roster.take("a", 0), roster.take("b", 1)) == (newer, older)
    assert (roster.ending(3), roster.ending(4)) == ((1, 4), (2, inf))
    assert [roster.take_ahead(name, 4) for name in "cde"] == [newer, older, None]


def test_a_worker_that_died_is_not_about_to_be_done() -> None:
    roster = foreseeing()
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.gone(worker, 1, "killed", load_failed=False)
    assert (roster.ending(0.5), roster.ending(3)) == ((0, inf), (0, inf))


def test_the_patience_with_a_batch_begins_when_it_is_its_turn() -> None:
    roster = several(2)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.take_ahead("b", 0)
    roster.release(worker, "a", 4)
    assert roster.wake_at() == 9
    assert roster.due(9) == [(worker, Alarm.ANSWERING)]
    assert (worker.late, roster.hangs(worker)) == (["b"], True)


def test_a_death_tells_apart_what_had_begun() -> None:
    roster = several(3)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.take_ahead("b", 0)
    roster.take_ahead("c", 0)
    assert roster.gone(worker, 1, "killed", load_failed=False) == Held(["a"], ["b", "c"])
    assert worker.held == 0


def test_a_worker_that_did_not_take_a_batch_is_offered_none_until_it_is_replaced() -> None:
    roster = several(2)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.take_ahead("b", 0)
    assert worker.take_back("b")
    assert (roster.ahead(), roster.take_ahead("b", 0)) == (0, None)
    roster.release(worker, "a", 0)  # its answer was on the way
    assert (roster.idle, roster.take("b", 0)) == ([], None)
    roster.gone(worker, 1, "killed", load_failed=False)
    assert roster.due(1) == [(worker, Alarm.START)]
    roster.started(worker, "process", 1)
    roster.loaded(worker, 2)
    assert roster.take("b", 3) is worker
    assert roster.ahead() == 1


def test_where_they_overlap_a_worker_takes_any_batch_once_execute_has_returned() -> None:
    roster = several(3, overlaps=True)
    (worker,) = hire(roster, 1)
    for name in "abc":
        assert roster.take(name, 0) is worker
        assert (roster.take("x", 0), roster.ahead()) == (None, 0)
        assert roster.returned(worker, name, 0)
        assert not roster.returned(worker, name, 0)
    assert (worker.held, roster.idle, worker.state) == (3, [], WorkerState.BUSY)  # all its places are taken
    roster.release(worker, "b", 1)
    assert (worker.held, roster.idle, worker.state) == (2, [worker], WorkerState.BUSY)
    roster.release(worker, "c", 1)
    roster.release(worker, "a", 1)
    assert (worker.state, roster.idle) == (WorkerState.READY, [worker])


def test_an_open_batch_is_late_by_itself_and_the_worker_hangs_once_all_its_places_are() -> None:
    roster = several(2, overlaps=True)
    (worker,) = hire(roster, 1)
    for at, name in ((0, "a"), (1, "b")):
        roster.take(name, at)
        roster.returned(worker, name, at)
    roster.progress(worker, "a", 2)
    assert roster.due(6) == [(worker, Alarm.ANSWERING)]
    assert (worker.late, roster.hangs(worker)) == (["b"], False)
    assert roster.wake_at() == 7
    worker.excuse(8)
    assert (worker.late, roster.wake_at()) == ([], 7)
    assert roster.due(8) == [(worker, Alarm.ANSWERING)]
    assert (worker.late, roster.hangs(worker)) == (["a", "b"], True)
    roster.progress(worker, "a", 9)
    assert (worker.late, roster.hangs(worker)) == (["b"], False)


def test_where_they_overlap_the_worker_with_the_fewest_open_batches_takes_the_next() -> None:
    roster = several(3, overlaps=True)
    workers = hire(roster, 2)
    took = []
    for name in "abcd":
        worker = roster.take(name, 0)
        assert worker is not None
        roster.returned(worker, name, 0)
        took.append(worker)
    assert [worker.held for worker in workers] == [2, 2]
    roster.release(took[0], "a", 1)
    assert roster.take("e", 1) is took[0]


def test_what_is_answered_together_lives_and_hangs_together() -> None:
    roster = several(4, overlaps=True, together=True)
    (worker,) = hire(roster, 1)
    for at, name in ((0, "a"), (1, "b"), (2, "c")):
        roster.take(name, at)
        roster.returned(worker, name, at)
    roster.progress(worker, "a", 3)
    assert (roster.wake_at(), sorted(worker.running)) == (8, ["a", "b", "c"])
    roster.release(worker, "b", 4)
    assert roster.due(9) == [(worker, Alarm.ANSWERING)]
    assert (sorted(worker.late), roster.hangs(worker)) == (["a", "c"], True)


def test_leaving_waits_for_what_is_open() -> None:
    roster = several(4, overlaps=True)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.returned(worker, "a", 0)
    assert roster.resize(0, 1, place) == []
    assert not roster.no_workers_left()
    roster.release(worker, "a", 2)
    assert roster.due(2 + STOP_GRACE_S) == [(worker, Alarm.STOPPING)]


def test_a_leaving_worker_that_gets_a_last_batch_is_not_stopped_over_it() -> None:
    roster = several(1)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.resize(0, 1, place)
    roster.release(worker, "a", 2)
    roster.assign(worker, "b", 3)
    assert roster.wake_at() == 8
    assert (roster.due(8), roster.wake_at()) == ([(worker, Alarm.ANSWERING)], None)


def test_what_leaves_with_nothing_but_late_batches_is_stopped() -> None:
    roster = several(4, overlaps=True)
    (worker,) = hire(roster, 1)
    roster.take("a", 0)
    roster.returned(worker, "a", 0)
    roster.due(5)
    assert (worker.late, roster.hangs(worker)) == (["a"], False)
    assert roster.resize(0, 6, place) == [worker]
    assert roster.no_workers_left()
    assert roster.due(6 + STOP_GRACE_S) == [(worker, Alarm.STOPPING)]


class RosterMachine(RuleBasedStateMachine):
    """Any order of events: each process and batch is in one place, and every member is heading somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.roster: Roster[Any, Any] = Roster(startup_s=60, response_s=5, give_up_after_s=50)
        self.now, self.last, self.batches, self.most = 0.0, 0, set[int](), 1

    @initialize(
        in_flight=st.integers(1, 3), overlaps=st.booleans(), together=st.booleans(), lasts=st.sampled_from([0.5, inf])
    )
    def kind(self, in_flight: int, overlaps: bool, together: bool, lasts: float) -> None:
        self.roster = Roster(
            startup_s=60, response_s=5, give_up_after_s=50, in_flight=lambda _: in_flight, overlaps=overlaps,
            together=together and overlaps, lasts=lambda _: (inf if overlaps else lasts, 0.3),
        )  # fmt: skip
        self.most = in_flight if overlaps or lasts == inf else max(in_flight, 2)

    def everyone(self) -> list[Any]:
        return [*self.roster.members, *self.roster.leaving]

    @rule(count=st.integers(0, 4))
    def resize(self, count: int) -> None:
        for worker in self.roster.resize(count, self.now, place):
            assert worker.child is not None
            assert not worker.unfinished

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for worker, alarm in self.roster.due(self.now):
            if alarm is Alarm.START:
                self.roster.started(worker, object(), self.now)
            elif alarm in (Alarm.LOADING, Alarm.STOPPING, Alarm.ANSWERING):
                self.gone(worker)

    @precondition(lambda self: any(w.child and w.state is WorkerState.STARTING for w in self.everyone()))
    @rule(good=st.booleans())
    def load_ends(self, good: bool) -> None:
        worker = next(w for w in self.everyone() if w.child and w.state is WorkerState.STARTING)
        if good:
            self.roster.loaded(worker, self.now)
        else:
            self.gone(worker, load_failed=True)

    @rule(ahead=st.booleans())
    def take(self, ahead: bool) -> None:
        self.last += 1
        took = self.roster.take_ahead if ahead else self.roster.take
        if took(self.last, self.now) is not None:
            self.batches.add(self.last)

    @precondition(lambda self: any(w.executing is not None for w in self.everyone()))
    @rule()
    def returns(self) -> None:
        worker = next(w for w in self.everyone() if w.executing is not None)
        self.roster.returned(worker, worker.executing, self.now)

    @precondition(lambda self: any(w.held for w in self.everyone()))
    @rule(data=st.data(), over=st.booleans())
    def answers(self, data: DataObject, over: bool) -> None:
        worker = next(w for w in self.everyone() if w.held)
        batch = data.draw(st.sampled_from([*worker.late, *worker.running]))
        if over:
            self.batches.remove(batch)
            self.roster.release(worker, batch, self.now)
        else:
            self.roster.progress(worker, batch, self.now)

    @precondition(lambda self: any(w.executing is not None for w in self.everyone()))
    @rule()
    def asks(self) -> None:
        self.roster.asks(next(w for w in self.everyone() if w.executing is not None), self.now)

    @precondition(lambda self: any(w.executing is not None for w in self.everyone()))
    @rule(data=st.data())
    def gives_back(self, data: DataObject) -> None:
        worker = next(w for w in self.everyone() if w.executing is not None)
        batch = data.draw(st.sampled_from([*worker.waiting, worker.executing]))
        assert self.roster.recalled(worker, batch, self.now)
        self.batches.remove(batch)

    @precondition(lambda self: any(w.child for w in self.everyone()))
    @rule(data=st.data())
    def dies(self, data: DataObject) -> None:
        self.gone(data.draw(st.sampled_from([w for w in self.everyone() if w.child])))

    def gone(self, worker: Worker[Any, Any], load_failed: bool = False) -> None:
        held = self.roster.gone(worker, self.now, "died", load_failed)
        assert len({*held.begun, *held.untouched}) == len(held.begun) + len(held.untouched)
        self.batches -= {*held.begun, *held.untouched}

    @invariant()
    def consistent(self) -> None:
        roster = self.roster
        assert len(set(map(id, self.everyone()))) == len(self.everyone())
        assert sorted(batch for w in self.everyone() for batch in w.batches()) == sorted(self.batches)
        assert all(w in roster.members and w.child and w.executing is None for w in roster.idle)
        assert all(w.held <= self.most and (w.executing is not None or not w.waiting) for w in self.everyone())
        assert len(set(map(id, roster.idle))) == len(roster.idle)
        assert all(w.child for w in roster.leaving)
        for worker in roster.members:
            if worker.child is None:
                assert (worker.alarm is not None) == (worker.state is not WorkerState.FAILED)
            if worker.state is WorkerState.READY:
                assert worker in roster.idle
        assert all(w in roster.idle or w.executing or w.held == w.in_flight for w in roster.members if w.held)
        assert roster.ready() == sum(w.state in (WorkerState.READY, WorkerState.BUSY) for w in roster.members)


TestRosterMachine = RosterMachine.TestCase
TestRosterMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
