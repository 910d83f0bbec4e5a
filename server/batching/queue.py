"""`Batcher`: what waits, and what leaves when. Pure: time and the number of idle workers are arguments.

Life of an item:  submit ──▶ waiting ──▶ a batch of a Step        each item comes out exactly once, by one of these ways
                                 ├─────▶ `expired` of a Step
                                 ├─────▶ cancel() returned True
                                 └─────▶ clear()

After each submit or cancel, and whenever a worker became idle or `wake_at` is reached, the owner polls.

Items with equal keys form a lane; lanes never wait for each other. Of the lanes that may leave, the one whose head has the
highest rank goes first, then the one that may leave for the longest time, so no lane of a level starves another. The rank of
an item is 2 · level, or 2 · level + 1 once it overran a timeout whose action is DELAY: behind all others of its level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Final

from ...core.errors import BatchTooWide, QueueFull
from ...core.model_config import Batching, QueuePolicy
from .item import Batch, Item, Reason, Step
from .lane import Lane
from .policy import Levels, Policy, ShapeChange, Walk, expiry

__all__ = ["Batch", "Batcher", "Item", "Reason", "Step", "expiry"]

_ALONE: Final = object()  # key of the lane of items that must run alone
_SLACK: Final = 64  # void heap entries tolerated beside as many as there are live ones


class Batcher:
    """The queue of one model version. Not thread-safe; see `dispatch.Dispatcher`.

    max_rows  rows that a batch may hold; 0 = the model has no batch axis, each request runs alone
    name      the model's name, for the texts of errors

    Invariant: a lane is either in `_stale` (to be walked before anything is decided about it) or has a walk and one live
    entry in `_ripening` or `_ripe`. Lanes are walked late, when a worker is idle: under overload a submit only appends.
    """

    def __init__(self, batching: Batching, max_rows: int, *, shape_change: ShapeChange = "lane", name: str = "") -> None:
        self._policy = Policy.of(batching, max_rows, shape_change)
        self._levels = Levels(batching)
        self._name = name
        self._lanes: dict[Hashable, Lane] = {}
        self._stale: dict[Lane, None] = {}
        self._ripening: list[tuple[float, int, Lane]] = []  # (ripe_at, stamp, lane)
        self._ripe: list[tuple[int, float, float, int, Lane]] = []  # (rank, ripe_at, oldest, stamp, lane)
        self._expiring: dict[int, Item] = {}
        self._expiries: list[tuple[float, int]] = []  # (expires, number of the item)
        self._held: Counter[int] = Counter()  # waiting items of each level
        self._limits = {level: policy.max_queue_size for level, policy in self._levels.policies.items()}
        self._limit = self._levels.policy(0).max_queue_size
        self._stamp = 0
        self._count = 0
        self._rows = 0

    # What the owner may ask

    def __len__(self) -> int:
        """Requests waiting."""
        return self._count

    @property
    def rows(self) -> int:
        """Rows waiting."""
        return self._rows

    @property
    def fills_batch(self) -> bool:
        """Whether some lane has a batch's worth of rows for certain: what comes now cannot make its batch larger."""
        return self._policy.alone or self._rows >= self._policy.max_rows * len(self._lanes)

    def is_full(self, priority: int | None = None) -> bool:
        """Whether a request of this priority would be refused now; None: whatever its priority."""
        if priority is not None:
            return self._is_full(self._levels.level(priority))
        return all(self._is_full(level) for level in self._levels.all)

    def _is_full(self, level: int) -> bool:
        limit = self._limits.get(level, self._limit)
        return 0 < limit <= self._held[level]

    def oldest(self) -> float | None:
        """The earliest arrival at the head of any queue; takes time in proportion to the number of lanes."""
        heads = (next(iter(queue)) for lane in self._lanes.values() for queue in lane.queues.values())
        return min((item.arrived for item in heads), default=None)

    def lines(self) -> list[tuple[Hashable, int, list[Item]]]:
        """What waits, by lane and rank: (key, rank, items in their order)."""
        return [(lane.key, rank, list(lane.queues[rank])) for lane in self._lanes.values() for rank in lane.ranks()]

    def queue_policy(self, priority: int = 0) -> QueuePolicy:
        """The queue policy that holds for a request of this priority."""
        return self._levels.policy(self._levels.level(priority))

    def expiry(self, arrived: float, priority: int = 0, timeout_us: int = 0) -> float | None:
        """What `Item.expires` of such a request should be; see `policy.expiry`."""
        return expiry(self.queue_policy(priority), arrived, timeout_us)

    # Coming and going

    def submit(self, item: Item) -> None:
        """Lets the item wait. Raises BatchTooWide, or QueueFull where its level holds `max_queue_size` items already."""
        if item.lane is not None:
            raise ValueError("the item is waiting already")
        if item.rows < 1:
            raise ValueError(f"an item has at least 1 row, got {item.rows}")
        if item.rows > self._policy.max_rows > 0:
            raise BatchTooWide(self._name, item.rows, self._policy.max_rows)
        level = self._levels.level(item.priority)
        if self._is_full(level):
            raise QueueFull("Exceeds maximum queue size")
        self._stamp += 1
        item.number, item.rank = self._stamp, 2 * level
        self._line_up(item)
        self._held[level] += 1
        self._count += 1
        self._rows += item.rows
        if item.expires is not None:
            self._watch(item, item.expires)

    def cancel(self, item: Item) -> bool:
        """Takes the item out if it is still waiting here; false where it is not."""
        lane: Lane | None = item.lane
        if lane is None or self._lanes.get(lane.key) is not lane:
            return False
        lane.remove(item)
        self._disturb(lane)
        self._leave(item)
        return True

    def clear(self) -> list[Item]:
        """Takes everything out, in the order in which it came."""
        items = sorted((item for lane in self._lanes.values() for item in lane), key=lambda item: item.number)
        for item in items:
            self._leave(item)
        for store in (self._lanes, self._stale, self._ripening, self._ripe, self._expiries):
            store.clear()
        return items

    # Deciding

    def poll(self, now: float, idle: int, ahead: int = 0) -> Step:
        """Decides what leaves at `now` with `idle` workers free. `now` never runs backwards.

        `ahead`: so many batches may leave for workers that are busy yet, if they cannot grow any more.

        `wake_at` supposes that the workers still idle after this step stay so.
        """
        expired = self._expire(now) if self._expiring else []
        batches: list[Batch] = []
        while len(batches) < idle and (lane := self._ripest(now)) is not None:
            batches.append(self._form(lane, now))
        if ahead > 0 and len(batches) >= idle:
            self._send_ahead(batches, ahead, now)
        return Step(batches, expired, self._wake_at(len(batches) < idle))

    def _send_ahead(self, batches: list[Batch], ahead: int, now: float) -> None:
        """Full batches, as long as the one that is to leave next is full."""
        for _ in range(ahead):
            if not self._policy.alone and self._rows < self._policy.top:
                return
            lane = self._ripest(now)
            if lane is None:
                return
            walk = lane.walk or lane.rewalk(self._policy)
            if walk.cut(now)[2] not in (Reason.FULL, Reason.ALONE):
                self._register(lane, walk)
                return
            batches.append(self._form(lane, now))

    def _line_up(self, item: Item) -> None:
        key = self._lane_key(item)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            self._stale[lane] = None
        item.lane = lane
        grows, walk = lane.append(item), lane.walk
        if walk is None:
            return
        if not grows:
            self._disturb(lane)  # a higher rank than some before it: the batch is formed anew, as in Triton
        elif walk.closed is None:
            before = walk.ripe_at
            walk.add(item)
            if walk.ripe_at < before:
                self._register(lane, walk)

    def _lane_key(self, item: Item) -> Hashable:
        if self._policy.flush or self._policy.alone:
            return None
        return _ALONE if item.alone else item.key

    def _disturb(self, lane: Lane) -> None:
        """The lane's items changed elsewhere than at the end: its walk and its heap entry are void."""
        lane.walk, lane.stamp = None, 0
        if lane.queues:
            self._stale[lane] = None
        else:
            self._stale.pop(lane, None)
            del self._lanes[lane.key]

    def _leave(self, item: Item) -> None:
        """Forgets an item that its lane has forgotten already."""
        item.lane = None
        self._count -= 1
        self._rows -= item.rows
        self._held[item.rank >> 1] -= 1
        if item.expires is not None:
            self._expiring.pop(item.number, None)

    def _form(self, lane: Lane, now: float) -> Batch:
        walk = lane.walk or lane.rewalk(self._policy)
        count, rows, reason = walk.cut(now)
        items = lane.take(count)
        for item in items:  # `_leave` for all of them at once
            item.lane = None
            self._held[item.rank >> 1] -= 1
            if item.expires is not None:
                self._expiring.pop(item.number, None)
        self._count -= count
        self._rows -= rows
        self._disturb(lane)
        return Batch(items, rows, reason)

    def _ripest(self, now: float) -> Lane | None:
        """The lane that should leave first at `now`, None where none may."""
        if self._stale:
            lanes = list(self._stale)
            self._stale.clear()
            for lane in lanes:
                walk = lane.rewalk(self._policy)
                if walk.ripe_at <= now and len(self._lanes) == 1:
                    return lane  # the usual case, without the detour over the heaps
                self._register(lane, walk)
        while self._ripening and self._ripening[0][0] <= now:
            ripe_at, stamp, lane = heappop(self._ripening)
            if lane.stamp == stamp and lane.walk is not None:
                heappush(self._ripe, (min(lane.queues), ripe_at, lane.walk.oldest, stamp, lane))
        while self._ripe:
            _, _, _, stamp, lane = heappop(self._ripe)
            if lane.stamp == stamp:
                return lane
        return None

    def _register(self, lane: Lane, walk: Walk) -> None:
        self._stamp += 1
        lane.stamp = self._stamp
        heappush(self._ripening, (walk.ripe_at, self._stamp, lane))
        if len(self._ripening) + len(self._ripe) > 2 * len(self._lanes) + _SLACK:
            self._ripening = [entry for entry in self._ripening if entry[2].stamp == entry[1]]
            self._ripe = [entry for entry in self._ripe if entry[4].stamp == entry[3]]
            heapify(self._ripening)
            heapify(self._ripe)

    def _wake_at(self, idle: bool) -> float | None:
        """The soonest expiry, or where a worker is idle the soonest instant at which a lane may leave."""
        wake_at = None
        if self._expiring:
            while self._expiries[0][1] not in self._expiring:
                heappop(self._expiries)
            wake_at = self._expiries[0][0]
        if idle and self._lanes:
            while self._ripening[0][2].stamp != self._ripening[0][1]:
                heappop(self._ripening)
            if wake_at is None or self._ripening[0][0] < wake_at:
                wake_at = self._ripening[0][0]
        return wake_at

    # Deadlines

    def _watch(self, item: Item, expires: float) -> None:
        self._expiring[item.number] = item
        heappush(self._expiries, (expires, item.number))
        if len(self._expiries) > 2 * len(self._expiring) + _SLACK:
            self._expiries = [entry for entry in self._expiries if entry[1] in self._expiring]
            heapify(self._expiries)

    def _expire(self, now: float) -> list[Item]:
        """Takes out what expired; items whose level says DELAY stay, behind all others of the level."""
        expired: list[Item] = []
        while self._expiries and (self._expiries[0][0] <= now or self._expiries[0][1] not in self._expiring):
            item = self._expiring.pop(heappop(self._expiries)[1], None)
            if item is None or item.lane is None:
                continue
            lane = item.lane
            lane.remove(item)
            if self._levels.policy(item.rank >> 1).timeout_action == "DELAY":
                item.rank += 1
                lane.append(item)
            else:
                expired.append(item)
            self._disturb(lane)
        for item in expired:
            self._leave(item)
        return expired
