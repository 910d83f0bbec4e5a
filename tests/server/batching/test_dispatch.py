"""`Dispatcher` with real threads: who delivers, that no worker is used twice, timers, closing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from jitney.core.errors import BatchTooWide, Draining, NoWorkers, QueueFull
from jitney.core.model_config import Batching, QueuePolicy
from jitney.server.batching import closed_loop
from jitney.server.batching.dispatch import Dispatcher
from jitney.server.batching.item import Line, Waiting
from jitney.server.batching.queue import Batch, Batcher, Item
from jitney.tests.fakes.clock import Clock
from jitney.tests.fakes.leftovers import Inventory

LIMIT = 10.0  # seconds after which a test gives up waiting


class Pool:
    """Workers as counters: `deliver` takes one, `finish` gives it back and says so.

    Queues are `Queue`s: several consumers of a `SimpleQueue` may wait past their timeout for ever (CPython 3.11.7).
    """

    def __init__(self, workers: int = 1) -> None:
        self.lock = threading.Lock()
        self.free = workers
        self.delivered: queue.Queue[Batch] = queue.Queue()
        self.expired: queue.Queue[Item] = queue.Queue()
        self.by: list[threading.Thread] = []
        self.dispatcher: Dispatcher | None = None

    def idle(self) -> int:
        with self.lock:
            return self.free

    def deliver(self, batch: Batch) -> None:
        with self.lock:
            assert self.free > 0, "delivered to a busy worker"
            self.free -= 1
        self.by.append(threading.current_thread())
        self.delivered.put(batch)

    def finish(self) -> None:
        with self.lock:
            self.free += 1
        assert self.dispatcher is not None
        self.dispatcher.wake()

    def batch(self) -> list[Any]:
        return [item.payload for item in self.delivered.get(timeout=LIMIT).items]


Make = Callable[..., tuple[Dispatcher, Pool]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a Dispatcher and its pool; ends it, and sees to it that no thread is left."""
    made: list[Dispatcher] = []
    before = Inventory()

    def build(batching: Batching, max_rows: int = 8, workers: int = 1, **kw: Any) -> tuple[Dispatcher, Pool]:
        pool = Pool(workers)
        calls = {"idle": pool.idle, "deliver": pool.deliver, "expire": pool.expired.put, "name": "m", **kw}
        dispatcher = pool.dispatcher = Dispatcher(Batcher(batching, max_rows, name="m"), **calls)
        made.append(dispatcher)
        return dispatcher, pool

    yield build
    for dispatcher in made:
        dispatcher.close()
    assert before.new(0, "thread") == []


def item(payload: Any, rows: int = 1, **kw: Any) -> Item:
    return Item(payload, rows, "k", time.monotonic(), **kw)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def test_a_lone_request_crosses_no_thread_and_starts_none(make: Make) -> None:
    dispatcher, pool = make(Batching(True, default_queue_policy=QueuePolicy(default_timeout_us=5_000_000)))
    before = Inventory()
    dispatcher.submit(item("a", expires=time.monotonic() + 5))
    assert pool.batch() == ["a"]
    assert pool.by == [threading.current_thread()]
    assert before.new(0, "thread") == []


def test_what_came_meanwhile_leaves_together_when_the_worker_is_free(make: Make) -> None:
    dispatcher, pool = make(Batching(True))
    for name in "abcd":
        dispatcher.submit(item(name))
    assert (pool.batch(), dispatcher.pending(), dispatcher.pending_rows()) == (["a"], 3, 3)
    pool.finish()
    assert (pool.batch(), dispatcher.pending()) == (["b", "c", "d"], 0)


def test_a_delay_ends_by_the_timer_and_counts_from_the_first_arrival(make: Make) -> None:
    dispatcher, pool = make(Batching(True, 250_000))
    first = item("a")
    for one in (first, item("b"), item("c")):
        dispatcher.submit(one)
    assert pool.batch() == ["a", "b", "c"]
    waited = time.monotonic() - first.arrived
    assert 0.25 <= waited < 1.5
    assert pool.by[0] is not threading.current_thread()


def test_a_full_batch_leaves_before_its_delay(make: Make) -> None:
    dispatcher, pool = make(Batching(True, 60_000_000), workers=2)
    for i in range(9):
        dispatcher.submit(item(i))
    assert pool.batch() == list(range(8))
    assert dispatcher.pending() == 1


def test_a_batch_leaves_by_the_timer_for_a_worker_that_is_about_to_be_done(make: Make) -> None:
    opens = time.monotonic() + 0.1
    sent: list[list[Any]] = []

    def ending(now: float) -> tuple[int, float]:
        return (0, inf) if sent else (0, opens) if now < opens else (1, inf)

    deliver = lambda batch: sent.append([item.payload for item in batch.items])  # noqa: E731
    dispatcher, _ = make(Batching(True), workers=0, ending=ending, deliver=deliver)
    for name in "abc":
        dispatcher.submit(item(name))
    assert sent == []
    until(lambda: bool(sent))
    assert time.monotonic() >= opens
    dispatcher.submit(item("d"))
    assert (sent, dispatcher.pending()) == ([["a", "b", "c"]], 1)


def test_a_delay_that_was_declared_is_waited_for_also_where_a_worker_is_about_to_be_done(make: Make) -> None:
    clock, sent = Clock(), list[Batch]()
    dispatcher, _ = make(
        Batching(True, 10_000_000), workers=0, clock=clock, deliver=sent.append, ending=lambda now: (not sent, inf)
    )
    dispatcher.submit(Item("a", 1, "k", clock()))
    assert sent == []
    clock.advance(10.0)
    dispatcher.wake()
    assert len(sent) == 1


# ---- clients that ask again at once


def taking_turns(dispatcher: Dispatcher, pool: Pool, clock: Clock, clients: int, batches: int = 40) -> list[int]:
    """So many batches of 6 ms, half a millisecond after which those who were answered ask again; how large they were."""
    for number in range(clients):
        dispatcher.submit(Item(number, 1, "k", clock()))
    sizes = []
    for _ in range(batches):
        batch = pool.batch()
        sizes.append(len(batch))
        clock.advance(0.006)
        dispatcher.answered(len(batch), 0.006)
        pool.finish()
        clock.advance(0.0005)
        for number in batch:
            dispatcher.submit(Item(number, 1, "k", clock()))
    return sizes


def test_groups_that_take_turns_become_one(make: Make) -> None:
    clock = Clock()
    dispatcher, pool = make(Batching(True), clock=clock)
    sizes = taking_turns(dispatcher, pool, clock, 4)
    assert sizes[:4] == [1, 3, 1, 3]
    assert sizes[-4:] == [4, 4, 4, 4]


def test_who_waits_for_others_that_do_not_come_leaves_soon(make: Make) -> None:
    clock = Clock()
    dispatcher, pool = make(Batching(True), clock=clock)
    taking_turns(dispatcher, pool, clock, 3)
    clock.advance(0.006)
    dispatcher.answered(len(pool.batch()), 0.006)
    pool.finish()
    dispatcher.submit(Item("a", 1, "k", clock()))
    assert pool.delivered.empty()
    clock.advance(0.002)
    dispatcher.wake()
    assert pool.batch() == ["a"]


def test_the_timer_ends_the_waiting(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "LONGEST_S", 0.2)
    monkeypatch.setattr(closed_loop, "BEGIN", 0.0)
    monkeypatch.setattr(closed_loop, "END", 0.0)
    dispatcher, pool = make(Batching(True))
    dispatcher.answered(2, 1.0)
    dispatcher.answered(2, 1.0)
    began = time.monotonic()
    dispatcher.submit(item("a"))
    assert pool.delivered.empty()
    assert pool.batch() == ["a"]
    assert time.monotonic() - began > 0.15


def test_a_full_batch_and_a_deadline_do_not_wait(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "LONGEST_S", 60.0)
    monkeypatch.setattr(closed_loop, "BEGIN", 0.0)
    monkeypatch.setattr(closed_loop, "END", 0.0)
    dispatcher, pool = make(Batching(True), max_rows=2)
    dispatcher.answered(9, 600.0)
    dispatcher.answered(9, 600.0)
    late = item("late", expires=time.monotonic() + 0.02)
    dispatcher.submit(late)
    assert pool.expired.get(timeout=LIMIT) is late
    dispatcher.submit(item("a"))
    assert pool.delivered.empty()
    dispatcher.submit(item("b"))
    assert pool.batch() == ["a", "b"]


def test_while_clients_come_back_at_once_only_a_full_batch_leaves_before_the_worker_is_done(make: Make) -> None:
    clock, early = Clock(), list[float]()
    dispatcher, pool = make(Batching(True), max_rows=4, clock=clock, ending=lambda now: (early.append(now) or 0, inf))
    taking_turns(dispatcher, pool, clock, 3)
    assert len(pool.batch()) == 3
    early.clear()
    dispatcher.submit(Item("a", 1, "k", clock()))
    assert early == []
    for name in "bcd":
        dispatcher.submit(Item(name, 1, "k", clock()))
    assert early != []


def test_a_sooner_instant_hastens_the_timer(make: Make) -> None:
    dispatcher, pool = make(Batching(True, 60_000_000))
    dispatcher.submit(item("later"))
    soon = item("soon", expires=time.monotonic() + 0.03)
    dispatcher.submit(soon)
    assert pool.expired.get(timeout=LIMIT) is soon
    assert dispatcher.pending() == 1


def test_expiry_is_reported_at_the_deadline_though_no_worker_is_free(make: Make) -> None:
    dispatcher, pool = make(Batching(True), workers=0)
    deadline = time.monotonic() + 0.05
    late = item("late", expires=deadline)
    dispatcher.submit(late)
    assert pool.expired.get(timeout=LIMIT) is late
    assert 0.0 <= time.monotonic() - deadline < 1.0
    assert dispatcher.pending() == 0


def test_the_clock_may_be_any(make: Make) -> None:
    clock = Clock()
    dispatcher, pool = make(Batching(True, 100_000_000), clock=clock)
    dispatcher.submit(Item("a", 1, "k", clock()))
    clock.advance(99.0)
    dispatcher.wake()
    assert (dispatcher.pending(), dispatcher.waited()) == (1, 99.0)
    clock.advance(1.0)
    dispatcher.wake()
    assert (pool.batch(), dispatcher.waited()) == (["a"], 0.0)


def test_refusals_reach_the_caller_and_keep_nothing(make: Make) -> None:
    dispatcher, _ = make(Batching(True, default_queue_policy=QueuePolicy(max_queue_size=1)), workers=0)
    with pytest.raises(BatchTooWide):
        dispatcher.submit(item("wide", rows=9))
    dispatcher.submit(item("a"))
    with pytest.raises(QueueFull):
        dispatcher.submit(item("b"))
    assert dispatcher.pending() == 1


def test_tickets_admit_one_request_for_each_idle_worker(make: Make) -> None:
    dispatcher, pool = make(Batching(True, 60_000_000), workers=2, tickets=True)
    dispatcher.submit(item("a"))
    dispatcher.submit(item("b"))
    with pytest.raises(NoWorkers, match="model 'm' has no idle worker"):
        dispatcher.submit(item("c"))
    lone, pool = make(Batching(True), workers=1, tickets=True)
    lone.submit(item("a"))
    with pytest.raises(NoWorkers):
        lone.submit(item("b"))
    pool.finish()
    lone.submit(item("c"))
    assert [pool.batch(), pool.batch()] == [["a"], ["c"]]


def test_cancelling(make: Make) -> None:
    dispatcher, pool = make(Batching(True), workers=0)
    a, b = item("a"), item("b")
    dispatcher.submit(a)
    dispatcher.submit(b)
    assert dispatcher.cancel(a)
    assert not dispatcher.cancel(a)
    pool.finish()
    assert pool.batch() == ["b"]
    assert not dispatcher.cancel(b)


def test_cancelling_what_was_in_the_way_lets_the_rest_leave(make: Make) -> None:
    dispatcher, pool = make(Batching(True, 60_000_000, (2, 6)))
    first = item("first", rows=3)
    dispatcher.submit(first)
    dispatcher.submit(item("second", rows=2))
    assert dispatcher.pending() == 2
    dispatcher.cancel(first)
    assert pool.batch() == ["second"]


def test_a_worker_is_not_promised_twice_while_a_delivery_lasts(make: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def slowly(batch: Batch) -> None:
        entered.set()
        assert go.wait(LIMIT)
        pool.deliver(batch)

    dispatcher, pool = make(Batching(True), deliver=slowly)
    thread = threading.Thread(target=dispatcher.submit, args=(item("a"),))
    thread.start()
    assert entered.wait(LIMIT)
    dispatcher.submit(item("b"))  # the pool still counts its worker as idle
    dispatcher.wake()
    assert dispatcher.pending() == 1
    assert not dispatcher.drain(0.01)
    go.set()
    thread.join()
    assert (pool.batch(), dispatcher.pending()) == (["a"], 1)
    pool.finish()
    assert pool.batch() == ["b"]


def test_a_worker_that_is_done_before_its_delivery_returns_is_used_again(make: Make) -> None:
    def at_once(batch: Batch) -> None:
        pool.deliver(batch)
        if len(delivered := batch.items) == 1 and delivered[0].payload == 0:
            for i in range(1, 40):
                dispatcher.submit(item(i))
        pool.finish()  # wakes while this delivery still counts

    dispatcher, pool = make(Batching(True), deliver=at_once)
    dispatcher.submit(item(0))
    batches = [pool.batch() for _ in range(6)]
    assert [payload for batch in batches for payload in batch] == list(range(40))
    assert (dispatcher.pending(), dispatcher.drain(0.0)) == (0, True)


def test_what_deliver_raises_is_logged_and_costs_no_worker(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    def broken(batch: Batch) -> None:
        if batch.items[0].payload == "bad":
            raise OSError("the socket is gone")
        pool.deliver(batch)

    dispatcher, pool = make(Batching(True), deliver=broken)
    with caplog.at_level(logging.ERROR):
        dispatcher.submit(item("bad"))
    assert "model 'm': could not hand out Batch" in caplog.text
    assert "the socket is gone" in caplog.text
    dispatcher.submit(item("good"))
    assert pool.batch() == ["good"]


def test_the_timer_survives_what_expire_raises(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    answered: queue.Queue[Item] = queue.Queue()

    def expire(one: Item) -> None:
        answered.put(one)
        raise RuntimeError("nobody listens")

    dispatcher, _ = make(Batching(True), workers=0, expire=expire)
    for name in "ab":
        dispatcher.submit(item(name, expires=time.monotonic() + 0.01))
        assert answered.get(timeout=LIMIT).payload == name
    dispatcher.close()
    assert caplog.text.count("RuntimeError: nobody listens") == 2


def test_closing_returns_what_still_waits_and_refuses_what_comes(make: Make) -> None:
    dispatcher, pool = make(Batching(True, 60_000_000))
    for name in "abc":
        dispatcher.submit(item(name, expires=time.monotonic() + 60))
    assert [one.payload for one in dispatcher.close()] == ["a", "b", "c"]
    assert (dispatcher.close(), dispatcher.pending(), dispatcher.drain(0.0)) == ([], 0, True)
    with pytest.raises(Draining, match="model 'm' is being stopped"):
        dispatcher.submit(item("d"))
    dispatcher.wake()
    assert pool.delivered.empty()


def test_the_timer_thread_itself_may_close(make: Make) -> None:
    closed = threading.Event()

    def expire(_: Item) -> None:
        dispatcher.close()
        closed.set()

    dispatcher, _ = make(Batching(True), workers=0, expire=expire)
    dispatcher.submit(item("a", expires=time.monotonic() + 0.01))
    assert closed.wait(LIMIT)


def test_draining_waits_for_the_last_to_leave(make: Make) -> None:
    dispatcher, pool = make(Batching(True), max_rows=1)
    for i in range(3):
        dispatcher.submit(item(i))
    assert not dispatcher.drain(0.01)
    drained = threading.Thread(target=lambda: results.append(dispatcher.drain(LIMIT)))
    results: list[bool] = []
    drained.start()
    pool.finish()
    assert drained.is_alive()
    pool.finish()
    drained.join(LIMIT)
    assert results == [True]


@pytest.mark.parametrize("batching", [Batching(True), Batching(True, 500), Batching(False)], ids=["zero", "delay", "off"])
def test_many_threads_lose_nothing_and_overbook_nobody(make: Make, batching: Batching) -> None:
    """8 clients, 3 workers, some requests cancelled, some with deadlines: each ends in exactly one way."""
    dispatcher, pool = make(batching, workers=3)
    ends: Counter[int] = Counter()
    total, running = 8 * 300, threading.Event()
    running.set()

    def work() -> None:
        while running.is_set() or not pool.delivered.empty():
            try:
                batch = pool.delivered.get(timeout=0.02)
            except queue.Empty:
                continue
            seen.append([one.payload for one in batch.items])
            pool.finish()

    def client(number: int) -> None:
        for i in range(300):
            payload = number * 300 + i
            expires = time.monotonic() + 0.002 * (i % 3) if i % 5 == 0 else None
            one = item(payload, expires=expires)
            dispatcher.submit(one)
            if i % 7 == 0 and dispatcher.cancel(one):
                cancelled.append(payload)

    seen: list[list[int]] = []
    cancelled: list[int] = []
    workers = [threading.Thread(target=work) for _ in range(3)]
    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in workers + clients:
        thread.start()
    for thread in clients:
        thread.join(LIMIT)
    assert dispatcher.drain(LIMIT)
    running.clear()
    for thread in workers:
        thread.join(LIMIT)
    until(lambda: pool.idle() == 3)
    dispatcher.close()  # ends the timer, so that every expiry was reported
    ends.update(payload for batch in seen for payload in batch)
    ends.update(cancelled)
    while not pool.expired.empty():
        ends[pool.expired.get().payload] += 1
    assert set(ends) == set(range(total))
    assert set(ends.values()) == {1}
    assert max(len(batch) for batch in seen) <= 8


def test_what_waits_is_told_by_lane_and_priority(make: Make) -> None:
    clock = Clock()
    policy = QueuePolicy(default_timeout_us=1_000_000, timeout_action="DELAY")
    batching = Batching(True, priority_levels=2, default_priority_level=1, priority_queue_policy={2: policy})
    dispatcher, _ = make(batching, workers=0, clock=clock)
    assert dispatcher.waiting() == Waiting()
    late = clock() + 2.5
    for key, priority, rows in (("a", 1, 3), ("a", 1, 2), ("b", 1, 1), ("b", 2, 1)):
        dispatcher.submit(Item(key, rows, key, clock(), late if priority == 2 else None, priority))
        clock.advance(0.5)
    dispatcher.wake()
    found = dispatcher.waiting()
    assert (found.requests, found.rows, found.oldest) == (4, 7, 2.0)
    assert sorted(found.lines, key=lambda line: (line.key, line.level)) == [
        Line("a", 1, False, 2, 5, 2.0),
        Line("b", 1, False, 1, 1, 1.0),
        Line("b", 2, False, 1, 1, 0.5),
    ]
    clock.advance(1)
    dispatcher.wake()
    assert [line.overdue for line in dispatcher.waiting().lines if line.level == 2] == [True]
