"""`Batcher` against an oracle, over random histories.

The oracle keeps one list and forms every batch from scratch, sentence by sentence as the contract has it; the Batcher keeps
lanes, walks and heaps. After each step both must agree on what left, what expired and when to wake.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jitney.core.errors import QueueFull
from jitney.core.model_config import Batching, QueuePolicy
from jitney.server.batching.queue import Batch, Batcher, Item, Step

TICK = 1 / 64  # seconds; binary fractions add up exactly


class Oracle:
    """What waits, and literally what should become of it."""

    def __init__(self, batching: Batching, max_rows: int, flush: bool) -> None:
        self.batching, self.max_rows, self.flush = batching, max_rows, flush
        self.alone = not batching.enabled or not max_rows
        self.preferred = () if self.alone else batching.preferred_batch_size
        self.top = max(self.preferred, default=max_rows)
        self.delay = 0.0 if self.alone else batching.max_queue_delay_us / 1e6
        self.waiting: list[tuple[int, int, Item]] = []  # (level, 1 if put behind, item) in the order of arrival

    def level(self, item: Item) -> int:
        levels = self.batching.priority_levels
        return (item.priority if 1 <= item.priority <= levels else self.batching.default_priority_level) if levels else 0

    def policy(self, level: int) -> QueuePolicy:
        return self.batching.priority_queue_policy.get(level, self.batching.default_queue_policy)

    def is_full(self, item: Item) -> bool:
        limit = self.policy(self.level(item)).max_queue_size
        return 0 < limit <= sum(level == self.level(item) for level, _, _ in self.waiting)

    def add(self, item: Item) -> None:
        self.waiting.append((self.level(item), 0, item))

    def remove(self, items: Sequence[Item]) -> None:
        self.waiting = [entry for entry in self.waiting if entry[2] not in items]

    def expire(self, now: float) -> set[Item]:
        due = [entry for entry in self.waiting if not entry[1] and entry[2].expires is not None and entry[2].expires <= now]
        due.sort(key=lambda entry: entry[2].expires or 0.0)  # stable: equal deadlines in the order of arrival
        self.remove([item for _, _, item in due])
        self.waiting += [(level, 1, item) for level, _, item in due if self.policy(level).timeout_action == "DELAY"]
        return {item for level, _, item in due if self.policy(level).timeout_action == "REJECT"}

    def lanes(self) -> list[list[tuple[int, int, Item]]]:
        lanes: dict[Any, list[tuple[int, int, Item]]] = {}
        for entry in sorted(self.waiting, key=lambda entry: entry[:2]):
            item = entry[2]
            key = None if self.flush or self.alone else ("alone",) if item.alone else item.key
            lanes.setdefault(key, []).append(entry)
        return list(lanes.values())

    def joins(self, head: Item, item: Item) -> bool:
        return not (self.alone or head.alone or item.alone or (self.flush and head.key != item.key))

    def form(self, items: list[Item], now: float) -> int | None:
        """How many of `items` leave at `now`, None if they wait."""
        if self.alone or items[0].alone:
            return 1
        rows = count = 0
        best: int | None = None
        send_now = False
        for item in items:
            if count and rows + item.rows > self.top and best is None:
                best = count
            if count and rows + item.rows > self.max_rows:
                send_now = True
                break
            if count and not self.joins(items[0], item):
                send_now = True
                break
            count, rows = count + 1, rows + item.rows
            if rows in self.preferred:
                best = count
        oldest = min(item.arrived for item in items[:count])
        late = self.delay > 0 and oldest + self.delay <= now
        if best is not None and not late:
            return best
        if send_now or rows >= self.top or late or self.delay == 0:
            return count
        return None

    def ripe_at(self, items: list[Item]) -> float:
        """The first instant at which `form` lets something leave, as the items came one after the other."""
        for seen in range(1, len(items) + 1):
            if self.form(items[:seen], float("-inf")) is not None:
                early = max(item.arrived for item in items[:seen])
                break
        else:
            early = float("inf")
        walked = next((n for n in range(1, len(items)) if self.stops(items[:n], items[n])), len(items))
        return min(early, min(item.arrived for item in items[:walked]) + self.delay)

    def stops(self, batch: list[Item], item: Item) -> bool:
        too_wide = 0 < self.max_rows < sum(one.rows for one in batch) + item.rows
        return too_wide or not self.joins(batch[0], item)

    def check(self, step: Step, now: float, idle: int) -> None:
        assert set(step.expired) == self.expire(now)
        assert len(step.batches) <= idle
        for batch in step.batches:
            self.check_batch(batch, now)
            self.remove(batch.items)
        spare = idle > len(step.batches)
        instants = [item.expires for _, behind, item in self.waiting if not behind and item.expires is not None]
        for lane in self.lanes() if spare else []:
            items = [item for _, _, item in lane]
            assert self.form(items, now) is None, "a worker is idle and a batch may leave"
            instants.append(self.ripe_at(items))
        assert step.wake_at == min(instants, default=None)
        assert step.wake_at is None or step.wake_at > now

    def check_batch(self, batch: Batch, now: float) -> None:
        urgency = {}
        for lane in self.lanes():
            items = [item for _, _, item in lane]
            if (count := self.form(items, now)) is not None:
                urgency[tuple(items[:count])] = (*lane[0][:2], self.ripe_at(items))
        assert tuple(batch.items) in urgency, "not a batch that may leave"
        assert urgency[tuple(batch.items)] == min(urgency.values()), "another lane should go first"


class Histories(RuleBasedStateMachine):
    """Requests come, go away and expire while workers become idle; `now` only grows."""

    @initialize(
        max_rows=st.sampled_from([8, 8, 8, 9, 4, 2, 1, 0]),
        enabled=st.sampled_from([True] * 9 + [False]),
        delay_ticks=st.sampled_from([0, 3, 6, 20]),
        sizes=st.sampled_from([(), (), (4,), (2, 6), (4, 6), (3,), (1, 5), (8,)]),
        levels=st.sampled_from([0, 0, 2, 3]),
        actions=st.lists(st.sampled_from(["REJECT", "DELAY"]), min_size=4, max_size=4),
        limits=st.lists(st.sampled_from([0, 0, 3]), min_size=4, max_size=4),
        flush=st.booleans(),
    )
    def begin(
        self,
        max_rows: int,
        enabled: bool,
        delay_ticks: int,
        sizes: tuple[Any, ...],
        levels: int,
        actions: list[Literal["REJECT", "DELAY"]],
        limits: list[int],
        flush: bool,
    ) -> None:
        policies = [QueuePolicy(limit, 0, True, action) for limit, action in zip(limits, actions, strict=True)]
        batching = Batching(
            enabled,
            round(delay_ticks * TICK * 1e6),
            tuple(size for size in sizes if size <= max_rows) if enabled else (),
            priority_levels=levels,
            default_priority_level=levels and 2,
            default_queue_policy=policies[0],
            priority_queue_policy={level: policies[level] for level in range(1, levels)},
        )
        self.max_rows = max_rows
        self.batcher = Batcher(batching, max_rows, shape_change="flush" if flush else "lane")
        self.oracle = Oracle(batching, max_rows, flush)
        self.now, self.idle, self.sequence = 0.0, 0, 0
        self.wake_at: float | None = None
        self.order: list[Item] = []
        self.inside: set[Item] = set()

    @rule(
        count=st.sampled_from([1, 1, 1, 4, 9]),
        rows=st.sampled_from([1, 1, 1, 1, 2, 3, 5, 9]),
        key=st.sampled_from("aaabc"),
        ticks=st.sampled_from([None, None, 0, 2, 10]),
        priority=st.integers(0, 4),
        alone=st.sampled_from([False] * 9 + [True]),
    )
    def arrive(self, count: int, rows: int, key: str, ticks: int | None, priority: int, alone: bool) -> None:
        for _ in range(count):
            self.submit(rows, key, ticks, priority, alone)

    def submit(self, rows: int, key: str, ticks: int | None, priority: int, alone: bool) -> None:
        expires = None if ticks is None else self.now + ticks * TICK
        item = Item(len(self.order), min(rows, self.max_rows or 1), key, self.now, expires, priority, alone)
        full = self.oracle.is_full(item)
        try:
            self.batcher.submit(item)
            assert not full
        except QueueFull:
            assert full
            return
        self.oracle.add(item)
        self.order.append(item)
        self.inside.add(item)
        self.poll(self.idle)

    @rule(ticks=st.integers(1, 12), idle=st.sampled_from([0, 0, 1, 3]))
    def later(self, ticks: int, idle: int) -> None:
        self.now += ticks * TICK
        self.poll(idle)

    @rule(idle=st.sampled_from([0, 1, 4]))
    def workers(self, idle: int) -> None:
        self.poll(idle)

    @precondition(lambda self: self.inside)
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice: Any) -> None:
        item = choice.choice(sorted(self.inside, key=lambda item: item.number))
        assert self.batcher.cancel(item)
        self.leave([item])
        self.oracle.remove([item])
        self.poll(self.idle)

    @precondition(lambda self: self.wake_at is not None)
    @rule()
    def sleep_until_woken(self) -> None:
        """Nothing happens before `wake_at`, and something does at it: expiry, a batch, or an item put behind."""
        assert self.wake_at is not None
        early = copy.deepcopy(self.batcher).poll((self.now + self.wake_at) / 2, self.idle)
        assert (early.batches, early.expired, early.wake_at) == ([], [], self.wake_at)
        self.now = self.wake_at
        self.poll(self.idle)
        next_at: float | None = self.wake_at
        assert next_at is None or next_at > self.now

    def poll(self, idle: int) -> None:
        step = self.batcher.poll(self.now, idle)
        self.oracle.check(step, self.now, idle)
        for item in step.expired:
            assert item.expires is not None
            assert item.expires <= self.now
        for batch in step.batches:
            self.check_batch(batch)
        self.leave(step.expired + [item for batch in step.batches for item in batch.items])
        self.idle, self.wake_at = idle - len(step.batches), step.wake_at

    def check_batch(self, batch: Batch) -> None:
        assert batch.items
        assert batch.rows == sum(item.rows for item in batch.items)
        assert batch.rows <= self.max_rows or not self.max_rows
        assert len({item.key for item in batch.items}) == 1
        assert len(batch.items) == 1 or not any(item.alone for item in batch.items)

    def leave(self, items: list[Item]) -> None:
        for item in items:
            self.inside.remove(item)  # KeyError: left twice

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "batcher"):
            assert len(self.batcher) == len(self.inside) == len(self.oracle.waiting)
            assert self.batcher.rows == sum(item.rows for item in self.inside)
            assert len(self.batcher._ripening) + len(self.batcher._ripe) <= 2 * len(self.batcher._lanes) + 65

    def teardown(self) -> None:
        if hasattr(self, "batcher"):
            while len(self.batcher):
                self.now += 60.0
                self.poll(5)
            assert not self.batcher._lanes


Histories.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = Histories.TestCase
