"""The sequence scheduler's rules, one by one, and over random histories. No clock, no threads, no workers."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jitney.core.errors import InvalidRequest, QueueFull, WorkerDied
from jitney.core.sequence_spec import SequenceSpec
from jitney.server.batching.item import Reason
from jitney.server.batching.sequence_queue import SequenceBatch, SequenceBatcher, SequenceItem

START, END = 1, 2


def spec(strategy: Any = "direct", slots: int = 2, **values: Any) -> SequenceSpec:
    return SequenceSpec(strategy, slots, **{"idle": 10.0, "delay": 0.0, **values})


def item(sequence: Any, flags: int = 0, at: float = 0.0, **values: Any) -> SequenceItem:
    values = {"rows": 1, "key": None, **values}
    return SequenceItem(
        f"{sequence}@{at}", arrived=at, sequence=sequence, start=bool(flags & START), end=bool(flags & END), **values
    )


class Bench:
    """A batcher with its workers; `poll` runs what leaves until `finish`."""

    def __init__(self, *seats: str, max_rows: int = 4, **values: Any) -> None:
        self.batcher = SequenceBatcher(spec(**values), max_rows, "m")
        self.batcher.place(seats, 0.0)
        self.running: list[SequenceBatch] = []
        self.told: list[SequenceItem] = []
        self.wake_at: float | None = None

    def submit(self, *items: SequenceItem) -> None:
        for each in items:
            self.batcher.submit(each)

    def poll(self, now: float = 0.0) -> list[tuple[str, list[Any]]]:
        """What left: (seat, ids) of each batch."""
        step = self.batcher.poll(now)
        self.running += step.batches  # type: ignore[arg-type]
        self.told += step.expired  # type: ignore[arg-type]
        self.wake_at = step.wake_at
        return [(b.seat, [i.sequence for i in b.items]) for b in step.batches]  # type: ignore[attr-defined]

    def finish(self, now: float = 0.0) -> None:
        for batch in self.running:
            self.batcher.finished(batch, now)
        self.running = []

    def ask(self, sequence: Any, flags: int = 0, at: float = 0.0) -> list[tuple[str, list[Any]]]:
        """One request from its arrival to its end."""
        self.submit(item(sequence, flags, at))
        left = self.poll(at)
        self.finish(at)
        return left


def test_a_sequence_keeps_its_worker_and_its_slot() -> None:
    bench = Bench("a", "b")
    assert bench.ask(1, START) == [("a", [1])]
    assert bench.ask(2, START) == [("b", [2])], "sequences spread over the workers"
    for _ in range(3):
        assert bench.ask(2) == [("b", [2])]
        assert bench.ask(1) == [("a", [1])]
    bench.submit(item(3, START), item(1), item(4, START))
    assert bench.poll() == [("a", [1, 3]), ("b", [4])]
    assert [[i.slot for i in batch.items] for batch in bench.running] == [[0, 1], [1]]  # type: ignore[attr-defined]


def test_requests_of_a_sequence_never_overlap_and_keep_their_order() -> None:
    bench = Bench("a")
    items = [item(1, START), item(1, at=1), item(1, END, at=2)]
    bench.submit(*items)
    for expected in items:
        assert bench.poll(3) == [("a", [1])]
        assert bench.running[0].items == [expected]
        assert bench.poll(3) == [], "its first request is still running"
        bench.finish(3)
    assert len(bench.batcher) == 0


def test_a_worker_whose_batch_is_open_takes_other_sequences_and_not_the_same() -> None:
    bench = Bench("a")
    bench.submit(item(1, START), item(1, at=1))
    assert bench.poll() == [("a", [1])]
    bench.submit(item(2, START))
    assert bench.poll() == []
    (first,) = bench.running
    bench.batcher.returned(first)
    assert bench.poll(2) == [("a", [2])]
    assert bench.poll(2) == []
    bench.batcher.finished(first, 3)
    assert bench.poll(3) == [], "the other batch is in execution"
    bench.batcher.returned(bench.running[1])
    assert bench.poll(3) == [("a", [1])]


def test_an_end_frees_the_slot_and_the_backlog_takes_it_in_order() -> None:
    bench = Bench("a", slots=1)
    bench.submit(item(1, START), item(2, START, at=1), item(3, START, at=2), item(2, END, at=3))
    assert bench.poll(3) == [("a", [1])]
    bench.finish(3)
    assert bench.poll(4) == []
    bench.submit(item(1, END, at=4))
    for wanted in (1, 2, 2, 3):
        assert bench.poll(5) == [("a", [wanted])]
        bench.finish(5)


@pytest.mark.parametrize("sequence", [0, ""])
def test_a_request_needs_an_id(sequence: Any) -> None:
    with pytest.raises(InvalidRequest, match="to model 'm' must specify a non-zero or non-empty correlation ID"):
        Bench("a").submit(item(sequence, START))


def test_a_request_has_one_row() -> None:
    with pytest.raises(
        InvalidRequest, match="to model 'm' must specify batch-size 1 due to requirements of sequence batcher"
    ):
        Bench("a").submit(item(1, START, rows=2))


def test_a_sequence_begins_with_start_also_after_its_end() -> None:
    bench = Bench("a")
    text = "inference request for sequence 78 to model 'm' must specify the START flag on the first request of the sequence"
    with pytest.raises(InvalidRequest, match=text):
        bench.submit(item(78))
    bench.ask(78, START)
    bench.ask(78, END)
    with pytest.raises(InvalidRequest, match=text):
        bench.submit(item(78))
    bench.submit(item(78, START), item(78, END))
    with pytest.raises(InvalidRequest, match=text):
        bench.submit(item(78))
    bench.submit(item(78, START))
    assert len(bench.batcher) == 3
    assert len(bench.batcher.clear()) == 3


def implicit(**limits: Any) -> SequenceBatcher:
    spec = SequenceSpec("oldest", 2, 10.0, 0.0, implicit=True, **limits)
    batcher = SequenceBatcher(spec, 4, "m")
    batcher.place(["a"], 0.0)
    return batcher


def leave(batcher: SequenceBatcher, now: float) -> list[int | str]:
    """Polls, and has what left be over at once."""
    found = []
    for batch in batcher.poll(now).batches:
        found += [each.sequence for each in batch.items if isinstance(each, SequenceItem)]
        batcher.finished(cast(SequenceBatch, batch), now)
    return found


def test_where_they_begin_by_themselves_no_start_is_needed() -> None:
    batcher = implicit()
    for at in (0.0, 1.0):
        batcher.submit(item("x", at=at))
        assert leave(batcher, at) == ["x"]


def test_of_a_sequence_so_many_requests_may_wait() -> None:
    batcher = implicit(queue=2)
    batcher.submit(item("x"))
    (batch,) = batcher.poll(0.0).batches
    batcher.submit(item("x"))
    batcher.submit(item("x"))
    with pytest.raises(QueueFull, match="sequence x has 2 requests waiting"):
        batcher.submit(item("x"))
    batcher.finished(cast(SequenceBatch, batch), 1.0)
    assert leave(batcher, 1.0) == ["x"]


def test_there_are_so_many_sequences_until_one_was_idle_for_too_long_or_lived_too_long() -> None:
    batcher = implicit(most=2, lifetime=25.0)
    for name in ("x", "y"):
        batcher.submit(item(name))
    assert sorted(map(str, leave(batcher, 0.0))) == ["x", "y"]
    with pytest.raises(QueueFull, match="model 'm' has 2 sequences"):
        batcher.submit(item("z", at=9.0))
    for at in (8.0, 16.0, 24.0):
        batcher.submit(item("x", at=at))
        assert leave(batcher, at) == ["x"]
    batcher.submit(item("z", at=24.0))  # "y" was idle
    assert leave(batcher, 24.0) == ["z"]
    with pytest.raises(QueueFull):
        batcher.submit(item("w", at=24.9))
    batcher.submit(item("w", at=25.0))  # "x" has had its time
    assert leave(batcher, 25.0) == ["w"]


def test_a_client_whose_sequence_was_lost_is_told_once() -> None:
    batcher = implicit()
    batcher.submit(item("x"))
    leave(batcher, 0.0)
    batcher.submit(item("x", at=1.0))
    batcher.place([], 1.0)
    step = batcher.poll(1.0)
    assert [cast(SequenceItem, each).lost != "" for each in step.expired] == [True]
    batcher.place(["b"], 1.0)
    with pytest.raises(WorkerDied, match="sequence x of model 'm' was lost"):
        batcher.submit(item("x", at=2.0))
    batcher.submit(item("x", at=3.0))
    assert leave(batcher, 3.0) == ["x"]


def test_numbers_and_strings_are_different_ids() -> None:
    bench = Bench("a")
    bench.ask(1, START)
    with pytest.raises(InvalidRequest):
        bench.submit(item("1"))


def test_a_second_start_begins_anew_in_the_same_slot() -> None:
    bench = Bench("a", "b")
    bench.ask(1, START)
    assert bench.ask(1, START) == [("a", [1])]
    assert bench.ask(1) == [("a", [1])]
    bench.submit(item(1, END), item(1, START))
    assert bench.poll() == [("a", [1])]
    bench.finish()
    assert bench.poll() == [("a", [1])], "a START behind the END waits for it"


def test_an_idle_sequence_ends_when_another_wants_its_slot() -> None:
    bench = Bench("a", slots=1)
    bench.ask(1, START, at=5)
    bench.submit(item(2, START, at=6))
    assert bench.poll(6) == []
    assert bench.wake_at == 15
    assert bench.poll(14.9) == []
    assert bench.poll(15) == [("a", [2])]
    with pytest.raises(InvalidRequest, match="START"):
        bench.submit(item(1, at=15))


def test_an_idle_sequence_ends_when_its_next_request_comes_too_late() -> None:
    bench = Bench("a")
    bench.ask(1, START)
    assert bench.ask(1, at=9.9) == [("a", [1])]
    with pytest.raises(InvalidRequest, match="START"):
        bench.submit(item(1, at=19.9))


def test_a_sequence_with_a_request_is_not_idle_however_long_it_runs() -> None:
    bench = Bench("a", slots=1)
    bench.submit(item(1, START), item(2, START))
    bench.poll()
    assert bench.poll(100) == []
    bench.finish(100)
    bench.submit(item(1, at=109))
    assert bench.poll(109) == [("a", [1])]


def test_direct_waits_for_its_slots_or_the_delay() -> None:
    bench = Bench("a", slots=4, delay=1.0, utilization=0.5)
    bench.submit(item(1, START))
    assert bench.poll(0.5) == []
    assert bench.wake_at == 1.0
    bench.submit(item(2, START, at=0.6))
    assert bench.poll(0.6) == [("a", [1, 2])]
    assert bench.running[0].reason is Reason.IDLE
    bench.finish(0.6)
    bench.submit(item(1, at=2.0))
    assert bench.poll(2.9) == []
    assert bench.poll(3.0) == [("a", [1])]
    assert [batch.reason for batch in bench.running[:1]] == [Reason.DELAY]


def test_direct_without_utilization_does_not_wait() -> None:
    bench = Bench("a", slots=2, delay=1.0)
    bench.submit(item(1, START))
    assert bench.poll() == [("a", [1])]
    bench.finish()
    bench.submit(item(1), item(2, START))
    assert bench.poll() == [("a", [1, 2])]
    assert bench.running[0].reason is Reason.FULL


def test_direct_puts_only_equal_shapes_together_the_oldest_first() -> None:
    bench = Bench("a", slots=3)
    bench.submit(item(1, START, at=1, key="x"), item(2, START, at=0, key="y"), item(3, START, at=2, key="y"))
    assert bench.poll(2) == [("a", [2, 3])]
    bench.finish(2)
    assert bench.poll(2) == [("a", [1])]


def test_oldest_forms_dynamic_batches_of_different_sequences() -> None:
    bench = Bench("a", strategy="oldest", slots=8, max_rows=4, delay=1.0, preferred=(2,))
    bench.submit(item(1, START), item(1))
    assert bench.poll() == []
    assert bench.wake_at == 1.0
    bench.submit(item(2, START, at=0.5))
    assert bench.poll(0.5) == [("a", [1, 2])]
    assert bench.running[0].reason is Reason.PREFERRED
    bench.finish(0.5)
    assert bench.poll(0.9) == []
    assert bench.poll(1.0) == [("a", [1])], "the second request of 1 waited its delay"


def test_oldest_holds_no_more_candidates_than_it_may() -> None:
    bench = Bench("a", strategy="oldest", slots=2, max_rows=4)
    bench.submit(item(1, START), item(2, START), item(3, START | END))
    assert bench.poll() == [("a", [1, 2])]
    bench.finish()
    bench.submit(item(1, END))
    assert bench.poll() == [("a", [1])]
    bench.finish()
    assert bench.poll() == [("a", [3])]


def test_a_model_without_a_batch_axis_runs_one_at_a_time() -> None:
    for strategy in ("direct", "oldest"):
        bench = Bench("a", strategy=strategy, slots=1, max_rows=0)
        bench.submit(item(1, START), item(2, START))
        assert bench.poll() == [("a", [1])]


def test_sequences_go_with_their_worker_and_may_begin_anew() -> None:
    bench = Bench("a", "b", slots=1)
    bench.ask(1, START)
    bench.ask(2, START)
    bench.submit(item(1))
    bench.poll()
    waiting = [item(1), item(1, END), item(1, START), item(1)]
    bench.submit(*waiting)
    bench.batcher.place(["b", "c"], 1.0)
    assert bench.poll(1) == [("c", [1])], "the new START goes on elsewhere"
    assert bench.told == waiting[:2]
    assert all("was lost" in told.lost for told in bench.told)
    bench.finish(1)
    assert bench.poll(1) == [("c", [1])]
    bench.finish(1)
    assert bench.ask(2, at=1) == [("b", [2])], "the other worker's sequence is untouched"


def test_the_next_request_of_a_lost_sequence_is_told_so_for_a_while() -> None:
    bench = Bench("a")
    for sequence in (1, 2, 3):
        bench.ask(sequence, START) if sequence < 3 else None
    bench.batcher.place(["b"], 1.0)
    with pytest.raises(WorkerDied, match=r"sequence 1 of model 'm' was lost .* begin it again with the START flag"):
        bench.submit(item(1, at=1))
    assert bench.ask(1, START, at=2) == [("b", [1])]
    assert bench.ask(1, at=3) == [("b", [1])]
    with pytest.raises(WorkerDied):
        bench.submit(item(2, at=10.9))
    with pytest.raises(InvalidRequest, match="START"):
        bench.submit(item(2, at=11.0))


def test_requests_wait_while_there_is_no_worker() -> None:
    bench = Bench()
    bench.submit(item(1, START))
    assert bench.poll() == []
    bench.batcher.place(["a"], 1.0)
    assert bench.poll(1) == [("a", [1])]


def test_a_cancelled_start_takes_the_rest_of_its_sequence_along() -> None:
    bench = Bench("a", slots=1)
    bench.ask(9, START)
    first, second, again = item(1, START), item(1, END), item(1, START)
    bench.submit(first, second, again)
    assert bench.batcher.cancel(first)
    assert not bench.batcher.cancel(first)
    assert not bench.batcher.cancel(second), "it is being told already"
    assert len(bench.batcher) == 2
    bench.poll()
    assert bench.told == [second]
    bench.ask(9, END)
    assert bench.poll() == [("a", [1])]
    assert bench.running[0].items == [again]


def test_a_cancelled_start_alone_leaves_nothing() -> None:
    bench = Bench("a", slots=1)
    only = item(1, START)
    bench.submit(only)
    assert bench.batcher.cancel(only)
    assert bench.ask(2, START) == [("a", [2])]
    with pytest.raises(InvalidRequest, match="START"):
        bench.submit(item(1))


def test_a_cancelled_end_leaves_its_sequence_open() -> None:
    for strategy in ("direct", "oldest"):
        bench = Bench("a", strategy=strategy)
        bench.ask(1, START)
        middle, last = item(1), item(1, END)
        bench.submit(middle, last)
        assert bench.batcher.cancel(last)
        assert bench.batcher.cancel(middle)
        assert bench.ask(1) == [("a", [1])]


def test_a_start_that_left_and_no_worker_was_given_takes_the_rest_along() -> None:
    """Its client had gone by then. The model must not see the rest without its beginning."""
    bench = Bench("a", slots=1)
    first, second, again = item(1, START), item(1), item(1, START, at=1.0)
    bench.submit(first, second, again)
    assert bench.poll() == [("a", [1])]
    bench.batcher.finished(bench.running.pop(), 0.0, [first.payload])
    assert bench.poll() == [("a", [1])]
    assert (bench.running[0].items, bench.told) == ([again], [second])


def test_an_end_that_no_worker_was_given_leaves_its_sequence_open() -> None:
    bench = Bench("a", slots=1)
    bench.ask(1, START)
    last = item(1, END)
    bench.submit(last)
    assert bench.poll() == [("a", [1])]
    bench.batcher.finished(bench.running.pop(), 0.0, [last.payload])
    assert bench.ask(1) == [("a", [1])]


def test_a_deadline_is_told_when_it_passes() -> None:
    bench = Bench("a", slots=1)
    bench.ask(9, START)
    late, behind = item(1, START, expires=2.0), item(1, expires=2.0)
    bench.submit(late, behind)
    assert bench.poll(1) == []
    assert bench.wake_at == 2.0
    bench.poll(2)
    assert bench.told == [late, behind]
    assert (late.lost, "was lost" in behind.lost) == ("", True)
    assert len(bench.batcher) == 0


def test_clear_gives_back_what_waits_in_order() -> None:
    bench = Bench("a", slots=1)
    items = [item(1, START, at=0), item(2, START, at=1), item(1, at=2)]
    bench.submit(*items)
    assert bench.batcher.clear() == items
    assert (len(bench.batcher), bench.batcher.rows, bench.batcher.oldest()) == (0, 0, None)


IDS = st.integers(1, 5)


class Histories(RuleBasedStateMachine):
    """Random submits, polls, ends of batches, cancellations, deaths and time; every item must come out exactly once."""

    @initialize(
        strategy=st.sampled_from(["direct", "oldest"]),
        slots=st.integers(1, 3),
        delay=st.sampled_from([0.0, 2.0]),
        utilization=st.sampled_from([0.0, 0.7]),
    )
    def begin(self, strategy: str, slots: int, delay: float, utilization: float) -> None:
        self.slots = slots
        self.batcher = SequenceBatcher(
            spec(strategy, slots, delay=delay, utilization=utilization if strategy == "direct" else 0.0), 4, "m"
        )
        self.now, self.lives = 0.0, 0
        self.seats: list[int] = []
        self.waiting: dict[SequenceItem, None] = {}
        self.order: dict[int | str, deque[SequenceItem]] = {}
        self.running: list[SequenceBatch] = []
        self.home: dict[int | str, tuple[Any, int]] = {}  # where a sequence's previous request ran
        self.since: dict[int | str, float] = {}  # when it last came or ended
        self.over: set[int | str] = set()  # sequences that ended: their homes may be taken
        self.closing: set[int | str] = set()  # a START was withdrawn: what came before it is not gone on with
        self.wake_at: float | None = None

    @rule()
    def a_worker_comes(self) -> None:
        if len(self.seats) < 3:
            self.lives += 1
            self.seats.append(self.lives)
            self.batcher.place(self.seats, self.now)

    @precondition(lambda self: self.seats)
    @rule(which=st.integers(0, 2))
    def a_worker_dies(self, which: int) -> None:
        gone = self.seats.pop(which % len(self.seats))
        self.running = [batch for batch in self.running if batch.seat != gone]
        self.home = {sequence: place for sequence, place in self.home.items() if place[0] != gone}
        self.batcher.place(self.seats, self.now)

    @rule(sequence=IDS, flags=st.sampled_from([0, 0, START, START, END, START | END]), expires=st.sampled_from([None, 3.0]))
    def a_request_comes(self, sequence: int, flags: int, expires: float | None) -> None:
        new = item(sequence, flags, self.now, expires=None if expires is None else self.now + expires)
        try:
            self.batcher.submit(new)
        except (InvalidRequest, WorkerDied):
            assert not flags & START
            return
        if flags & START and sequence in self.home and self.may_be_gone(sequence):
            del self.home[sequence]
        self.since[sequence] = self.now
        if flags & START:
            self.closing.discard(sequence)
        self.waiting[new] = None
        self.order.setdefault(sequence, deque()).append(new)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 20))
    def a_client_leaves(self, which: int) -> None:
        gone = list(self.waiting)[which % len(self.waiting)]
        if self.batcher.cancel(gone):
            self.comes_out(gone)

    @rule()
    def a_poll(self) -> None:
        step = self.batcher.poll(self.now)
        self.wake_at = step.wake_at
        assert step.wake_at is None or step.wake_at > self.now
        for told in step.expired:
            assert isinstance(told, SequenceItem)
            assert told.lost or (told.expires is not None and told.expires <= self.now)
            self.comes_out(told)
        for batch in step.batches:
            assert isinstance(batch, SequenceBatch)
            self.leaves(batch)
        assert not self.batcher.poll(self.now).batches, "one poll says all"

    def leaves(self, batch: SequenceBatch) -> None:
        assert batch.seat in self.seats
        assert batch.seat not in {other.seat for other in self.running}, "a worker runs one batch"
        self.running.append(batch)
        slots = [each.slot for each in batch.items]  # type: ignore[attr-defined]
        assert len(set(slots)) == len(slots) <= 4
        assert all(0 <= slot < self.slots for slot in slots)
        for each in batch.items:
            assert isinstance(each, SequenceItem)
            assert each is next(o for o in self.order[each.sequence] if o in self.waiting), "first in, first out"
            self.comes_out(each, ran=True)
            place = (batch.seat, each.slot)
            if not each.start:
                assert self.home[each.sequence] == place, "a sequence keeps its slot"
            others = [who for who, where in self.home.items() if where == place and who != each.sequence]
            assert all(self.may_be_gone(who) for who in others), "no slot is shared"
            self.home = {who: where for who, where in self.home.items() if who not in others}
            self.home[each.sequence] = place
            self.over.discard(each.sequence)
        running = [each.sequence for other in self.running for each in other.items]  # type: ignore[attr-defined]
        assert len(set(running)) == len(running), "one request of a sequence at a time"

    def may_be_gone(self, sequence: int | str) -> bool:
        busy = {each.sequence for batch in self.running for each in batch.items}  # type: ignore[attr-defined]
        if sequence in busy or self.order[sequence]:
            return False
        return sequence in self.over | self.closing or self.since[sequence] + 10.0 <= self.now

    def comes_out(self, each: SequenceItem, ran: bool = False) -> None:
        del self.waiting[each]
        self.order[each.sequence].remove(each)
        if each.start and not ran:
            self.closing.add(each.sequence)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2))
    def a_batch_ends(self, which: int) -> None:
        batch = self.running.pop(which % len(self.running))
        for each in batch.items:
            assert isinstance(each, SequenceItem)
            self.since[each.sequence] = self.now
            if each.end:
                self.over.add(each.sequence)
        self.batcher.finished(batch, self.now)

    @rule(seconds=st.sampled_from([0.5, 2.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "batcher"):
            assert len(self.batcher) == len(self.waiting)

    def teardown(self) -> None:
        """With workers and time everything that waits comes out."""
        if not hasattr(self, "batcher"):
            return
        self.a_worker_comes()
        for _ in range(400):
            if not self.waiting:
                return
            self.a_poll()
            while self.running:
                self.a_batch_ends(0)
            self.now += 1.0
        raise AssertionError(f"{self.waiting} never came out")


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
