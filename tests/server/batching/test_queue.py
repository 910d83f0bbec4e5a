"""`Batcher`: priorities, queue policies, deadlines, lanes, cancelling and what it costs in memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from jitney.core.errors import BatchTooWide, QueueFull
from jitney.core.model_config import Batching, QueuePolicy
from jitney.server.batching.queue import Batcher, Item, Reason
from jitney.tests.fakes.server_in_virtual_time import Sent, serve


def item(name: Any, at: float = 0.0, rows: int = 1, key: Any = "k", **kw: Any) -> Item:
    return Item(name, rows, key, at, **kw)


def filled(batcher: Batcher, *items: Item) -> Batcher:
    for one in items:
        batcher.submit(one)
    return batcher


def names(batcher: Batcher, now: float, idle: int) -> list[list[Any]]:
    return [[one.payload for one in batch.items] for batch in batcher.poll(now, idle).batches]


# Late binding


def test_nothing_leaves_without_an_idle_worker_and_one_batch_for_each() -> None:
    batcher = filled(Batcher(Batching(True), 2), *(item(i) for i in range(7)))
    assert names(batcher, 1.0, 0) == []
    assert names(batcher, 1.0, 2) == [[0, 1], [2, 3]]
    assert names(batcher, 1.0, 9) == [[4, 5], [6]]
    assert batcher.poll(1.0, 9).wake_at is None


def test_an_instant_without_a_worker_is_no_reason_to_wake() -> None:
    batcher = filled(Batcher(Batching(True, 50_000), 8), item("a", 1.0))
    assert batcher.poll(1.0, 0).wake_at is None
    assert batcher.poll(1.0, 1).wake_at == 1.05


# Sent ahead


def ahead(batcher: Batcher, now: float, places: int) -> list[list[Any]]:
    return [[one.payload for one in batch.items] for batch in batcher.poll(now, 0, places).batches]


def test_only_full_batches_leave_for_busy_workers_as_many_as_they_take() -> None:
    batcher = filled(Batcher(Batching(True), 2), *(item(i) for i in range(7)))
    assert ahead(batcher, 1.0, 2) == [[0, 1], [2, 3]]
    assert ahead(batcher, 1.0, 5) == [[4, 5]]
    assert names(batcher, 1.0, 1) == [[6]]


def test_a_batch_whose_delay_is_over_waits_for_a_worker_as_it_may_grow_until_then() -> None:
    batcher = filled(Batcher(Batching(True, 1000), 4), *(item(i) for i in range(3)))
    assert ahead(batcher, 9.0, 1) == []
    batcher.submit(item(3, 9.0))
    assert ahead(batcher, 9.0, 1) == [[0, 1, 2, 3]]


def test_nothing_overtakes_the_batch_that_is_to_leave_next() -> None:
    batcher = filled(Batcher(Batching(True), 2), item("a", 0.0, key="x"), *(item(i, 1.0) for i in range(2)))
    assert ahead(batcher, 2.0, 1) == []
    assert names(batcher, 2.0, 1) == [["a"]]
    assert ahead(batcher, 2.0, 1) == [[0, 1]]


def test_requests_that_run_alone_are_full_by_themselves() -> None:
    batcher = filled(Batcher(Batching(False), 0), *(item(i) for i in range(3)))
    assert ahead(batcher, 1.0, 2) == [[0], [1]]


def test_after_a_look_ahead_the_rest_leaves_as_ever() -> None:
    batcher = filled(Batcher(Batching(True, 50_000), 4), item("a", 1.0))
    assert (ahead(batcher, 1.0, 1), batcher.poll(1.01, 1).wake_at) == ([], 1.05)
    assert names(batcher, 1.05, 1) == [["a"]]


def test_what_waits_can_be_counted() -> None:
    batcher = filled(Batcher(Batching(True), 8), item("a", 3.0, rows=2), item("b", 2.0, key="other"))
    assert (len(batcher), batcher.rows, batcher.oldest()) == (2, 3, 2.0)
    batcher.poll(4.0, 2)
    assert (len(batcher), batcher.rows, batcher.oldest()) == (0, 0, None)


# Refusals


def test_too_wide_is_refused_with_and_without_batching() -> None:
    for batching in (Batching(True), Batching(False)):
        with pytest.raises(BatchTooWide, match="batch-size must be <= 8 for 'resnet', got 9"):
            Batcher(batching, 8, name="resnet").submit(item("wide", rows=9))
    filled(Batcher(Batching(), 0), item("no batch axis", rows=9))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"rows": 0}, ValueError), ({"rows": -3}, ValueError), ({"rows": 9}, BatchTooWide), ({"key": []}, TypeError)],
)
def test_a_refused_item_leaves_no_trace(wrong: dict[str, Any], error: type[Exception]) -> None:
    batcher = Batcher(Batching(True), 8)
    refused = item("x", expires=5.0, **wrong)
    with pytest.raises(error):
        batcher.submit(refused)
    assert (len(batcher), batcher.rows, batcher.cancel(refused)) == (0, 0, False)
    assert batcher.poll(9.0, 1).expired == []


def test_an_item_waits_once() -> None:
    once = item("a")
    batcher = filled(Batcher(Batching(True), 8), once)
    with pytest.raises(ValueError, match="waiting already"):
        batcher.submit(once)
    assert names(batcher, 0.0, 1) == [["a"]]


def test_a_full_queue_refuses_requests_not_rows_and_recovers() -> None:
    batching = Batching(True, default_queue_policy=QueuePolicy(max_queue_size=2))
    batcher = filled(Batcher(batching, 8), item("a", rows=4), item("b", rows=4, key="other"))
    with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
        batcher.submit(item("c"))
    assert names(batcher, 1.0, 1) == [["a"]]
    filled(batcher, item("d", 1.0))
    with pytest.raises(QueueFull):
        batcher.submit(item("e"))


def test_each_level_has_its_own_queue_policy() -> None:
    policies = {1: QueuePolicy(max_queue_size=1), 2: QueuePolicy(default_timeout_us=1_000_000)}
    batching = Batching(True, priority_levels=3, default_priority_level=2, priority_queue_policy=policies)
    batcher = filled(Batcher(batching, 8), item("a", priority=1), item("b", priority=2), item("c", priority=2))
    with pytest.raises(QueueFull):
        batcher.submit(item("d", priority=1))
    assert [batcher.expiry(5.0, priority) for priority in (1, 2, 3, 0)] == [None, 6.0, None, 6.0]
    assert batcher.queue_policy(1).max_queue_size == 1


# Priorities

LEVELS = Batching(True, priority_levels=3, default_priority_level=2)


@pytest.mark.parametrize(
    ("priorities", "order"), [((3, 3, 2, 1, 1), [0, 4, 5, 3, 1, 2]), ((3, 0, 2, 9, 1), [0, 5, 2, 3, 4, 1])]
)
def test_the_order_that_triton_executes_in(priorities: tuple[int, ...], order: list[int]) -> None:
    requests = [Sent(0, hold=0.9), *(Sent(0.1 + 0.05 * i, hold=0.06, priority=p) for i, p in enumerate(priorities))]
    answered = serve(Batcher(LEVELS, 1), requests).answered
    assert sorted(answered, key=answered.__getitem__) == order


def test_a_batch_combines_levels_in_their_order() -> None:
    batcher = filled(Batcher(LEVELS, 4), *(item(i, priority=p) for i, p in enumerate((3, 2, 1, 3, 1, 2))))
    assert names(batcher, 1.0, 2) == [[2, 4, 1, 5], [0, 3]]


def test_a_higher_arrival_restarts_the_batch_being_formed() -> None:
    batching = Batching(True, 1_000_000, (3,), priority_levels=2, default_priority_level=2)
    batcher = filled(Batcher(batching, 8), item("low", 0.0, rows=2))
    assert batcher.poll(0.0, 1).wake_at == 1.0
    filled(batcher, item("high", 0.5, rows=1, priority=1))
    assert names(batcher, 0.5, 1) == [["high", "low"]]  # 1 + 2 is the preferred size


def test_the_oldest_of_the_batch_counts_whatever_its_level() -> None:
    batching = Batching(True, 1_000_000, priority_levels=2, default_priority_level=2)
    batcher = filled(Batcher(batching, 8), item("low", 0.0), item("high", 0.9, priority=1))
    assert batcher.poll(0.9, 1).wake_at == 1.0
    assert names(batcher, 1.0, 1) == [["high", "low"]]


def test_levels_are_strict_across_lanes() -> None:
    batcher = filled(Batcher(LEVELS, 8), item("old", 0.0, key="a", priority=3), item("new", 5.0, key="b", priority=1))
    assert names(batcher, 6.0, 2) == [["new"], ["old"]]


def test_millions_of_levels_cost_nothing() -> None:
    batching = Batching(True, priority_levels=2**32, default_priority_level=2**31)
    batcher = filled(Batcher(batching, 8), item("default"), item("last", priority=2**32), item("first", priority=1))
    assert names(batcher, 0.0, 1) == [["first", "default", "last"]]


# Lanes


def test_the_lane_that_is_ripe_for_the_longest_time_goes_first() -> None:
    batcher = Batcher(Batching(True, 100_000), 2)
    filled(batcher, item("waits", 0.0, key="a"), item("f1", 0.01, key="b"), item("f2", 0.02, key="b"))
    filled(batcher, item("g1", 0.11, key="c"), item("g2", 0.12, key="c"))
    assert names(batcher, 0.2, 3) == [["f1", "f2"], ["waits"], ["g1", "g2"]]


def test_without_a_delay_the_oldest_head_goes_first() -> None:
    keys = "abcab"
    batcher = filled(Batcher(Batching(True), 8), *(item(i, float(i), key=key) for i, key in enumerate(keys)))
    assert names(batcher, 9.0, 9) == [[0, 3], [1, 4], [2]]


@pytest.mark.parametrize("delay_us", [0, 50_000])
def test_a_busy_lane_does_not_starve_a_quiet_one(delay_us: int) -> None:
    flood = [Sent(i * 0.001, key="busy") for i in range(400)]  # twice what the worker can do
    requests = sorted([*flood, Sent(0.1, key="quiet")], key=lambda sent: sent.at)
    quiet = next(index for index, sent in enumerate(requests) if sent.key == "quiet")
    answered = serve(Batcher(Batching(True, delay_us), 4), requests, least_s=0.008).answered
    ripe = 0.1 + delay_us / 1e6
    assert answered[quiet] <= 2 * ripe + 0.02  # behind what was ripe before it, and no more
    assert max(answered.values()) > 0.79


def test_a_thousand_lanes_come_and_go() -> None:
    batcher = Batcher(Batching(True, 1_000_000), 8)
    for i in range(5000):
        filled(batcher, item(i, i * 1e-6, key=i % 1000))
    assert batcher.poll(0.5, 2000).wake_at == 1.0
    assert sum(len(batch) for batch in names(batcher, 1.5, 2000)) == 5000
    assert not batcher._lanes


# Cancelling


def test_a_cancelled_item_is_gone_once() -> None:
    a, b, c = (item(name) for name in "abc")
    batcher = filled(Batcher(Batching(True), 8), a, b, c)
    assert batcher.cancel(b)
    assert not batcher.cancel(b)
    assert names(batcher, 0.0, 1) == [["a", "c"]]
    assert not batcher.cancel(a)
    assert not Batcher(Batching(True), 8).cancel(c)


def test_another_batchers_item_is_not_cancelled() -> None:
    a = item("a")
    filled(Batcher(Batching(True), 8), a)
    assert not filled(Batcher(Batching(True), 8), item("b")).cancel(a)


def test_cancelling_forms_the_batch_anew() -> None:
    first, second = item("first", 0.0, rows=3), item("second", 0.1, rows=2)
    batcher = filled(Batcher(Batching(True, 1_000_000, (2, 6)), 8), first)
    assert names(batcher, 0.0, 1) == []
    filled(batcher, second)
    assert batcher.poll(0.1, 1).wake_at == 1.0
    assert batcher.cancel(first)
    assert names(batcher, 0.1, 1) == [["second"]]


def test_clear_returns_everything_in_the_order_of_arrival() -> None:
    batcher = filled(Batcher(LEVELS, 8), *(item(i, key=i % 3, priority=i % 4, expires=9.0) for i in range(10)))
    assert [one.payload for one in batcher.clear()] == list(range(10))
    assert (len(batcher), batcher.rows, batcher.clear()) == (0, 0, [])
    step = batcher.poll(99.0, 5)
    assert (step.batches, step.expired, step.wake_at) == ([], [], None)
    assert names(filled(batcher, item("again")), 99.0, 1) == [["again"]]


# Deadlines


def test_expiry_does_not_wait_for_a_worker() -> None:
    batcher = filled(Batcher(Batching(True), 8), item("a", 0.0, expires=2.0), item("b", 0.0, expires=1.0))
    assert batcher.poll(0.0, 0).wake_at == 1.0
    step = batcher.poll(1.0, 0)
    assert ([one.payload for one in step.expired], step.wake_at) == (["b"], 2.0)
    assert names(batcher, 1.5, 1) == [["a"]]
    assert batcher.poll(2.0, 1).expired == []


def test_an_expired_item_no_longer_fills_a_batch() -> None:
    batcher = filled(Batcher(Batching(True, 9_000_000), 4), item("a", rows=3, expires=1.0), item("b", 0.5, rows=1))
    step = batcher.poll(1.0, 1)
    assert ([one.payload for one in step.expired], step.batches, step.wake_at) == (["a"], [], 9.5)


def test_the_expiry_of_what_left_wakes_nobody() -> None:
    batcher = filled(Batcher(Batching(True), 1), item("a", 0.0, expires=1.0), item("b", 0.0, expires=2.0))
    step = batcher.poll(0.0, 1)
    assert ([batch.items[0].payload for batch in step.batches], step.wake_at) == (["a"], 2.0)


DELAYING = Batching(True, default_queue_policy=QueuePolicy(default_timeout_us=1_500_000, timeout_action="DELAY"))


def test_the_action_delay_puts_an_expired_item_behind_the_others() -> None:
    requests = [Sent(0, hold=2.6), Sent(0.1, hold=0.1), Sent(2.2, hold=0.1)]
    outcome = serve(Batcher(DELAYING, 1), requests)
    assert outcome.members == [[0], [2], [1]]
    assert outcome.errors == {}


def test_behind_the_others_of_its_level_in_every_lane() -> None:
    batcher = filled(Batcher(DELAYING, 8), item("late", 0.0, key="a", expires=1.5), item("new", 1.0, key="b"))
    assert batcher.poll(0.0, 0).wake_at == 1.5
    assert batcher.poll(1.5, 0).wake_at is None
    assert names(batcher, 2.0, 2) == [["new"], ["late"]]


def test_a_delayed_item_still_counts_in_its_queue() -> None:
    policy = QueuePolicy(max_queue_size=1, default_timeout_us=1_500_000, timeout_action="DELAY")
    batcher = filled(Batcher(Batching(True, default_queue_policy=policy), 8), item("late", 0.0, expires=1.5))
    batcher.poll(1.5, 0)
    with pytest.raises(QueueFull):
        batcher.submit(item("new", 2.0))


# Memory


def test_what_left_is_forgotten() -> None:
    class Payload:
        pass

    batcher = Batcher(Batching(True, 1_000_000), 4)
    left: list[weakref.ref[Payload]] = []
    for i in range(1000):
        payload = Payload()
        left.append(weakref.ref(payload))
        one = item(payload, float(i), expires=1e9, key=i % 7)
        del payload
        batcher.submit(one)
        if i % 3:
            batcher.cancel(one)
        batcher.poll(float(i), 1)
    batcher.poll(1e6, 100)
    del one
    gc.collect()
    assert len(batcher) == 0
    assert sum(ref() is not None for ref in left) == 0
    sizes = [len(store) for store in (batcher._ripening, batcher._ripe, batcher._expiries, batcher._stale)]
    assert max(sizes) < 200


def test_cancelling_while_all_workers_are_busy_leaves_nothing() -> None:
    batcher = Batcher(Batching(True), 4)
    for i in range(1000):
        one = item(i, float(i), key=i, expires=1e9)
        batcher.submit(one)
        batcher.cancel(one)
    assert not batcher._stale
    assert len(batcher._expiries) < 200


def test_a_batch_tells_its_rows() -> None:
    (batch,) = filled(Batcher(Batching(True), 8), item("a", rows=3), item("b", rows=2)).poll(0.0, 1).batches
    assert (batch.rows, batch.reason) == (5, Reason.IDLE)
