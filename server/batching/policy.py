"""The batch policy: how many of the requests at a lane's head leave together, and when. Pure; times are arguments.

`Walk.add` is Triton's forming of a batch (core, `dynamic_batch_scheduler.cc`), one request at a time from the head on, with s
the rows so far, r the next request's rows, M the maximum, Pmax the largest preferred size (M where none is declared):

    1. s + r > Pmax and no size was kept yet   keep s, and go on
    2. s + r > M                               stop: the batch cannot grow
    3. another key                             stop (only where one queue holds all keys)
    4. otherwise add; s is a preferred size    keep s

Then, with D the declared delay: a kept size leaves now unless the oldest request has waited D; everything walked leaves now
if the walk stopped, s >= Pmax, the oldest request has waited D, or D = 0. Else the lane waits for its oldest to become D old.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from ...core.errors import InvalidRequest
from ...core.model_config import Batching, QueuePolicy
from .item import Item, Reason

ShapeChange = Literal["lane", "flush"]


@dataclass(frozen=True, slots=True)
class Policy:
    """A model's batch policy, ready for use. `delay` in seconds; `top` is Pmax.

    alone   each request is executed by itself: batching is off, or the model has no batch axis
    flush   one queue holds all keys, and a change of key closes the batch before it (Triton); else each key has a lane
    """

    max_rows: int
    delay: float
    preferred: frozenset[int]
    top: int
    alone: bool
    flush: bool

    @classmethod
    def of(cls, batching: Batching, max_rows: int, shape_change: ShapeChange = "lane") -> Policy:
        """Raises ValueError for values that no batch can satisfy."""
        if max_rows < 0:
            raise ValueError(f"max_batch_size must be 0 or more, got {max_rows}")
        if batching.max_queue_delay_us < 0:
            raise ValueError(f"max_queue_delay_microseconds must be 0 or more, got {batching.max_queue_delay_us}")
        if shape_change not in ("lane", "flush"):
            raise ValueError(f"shape_change must be 'lane' or 'flush', got {shape_change!r}")
        alone = not batching.enabled or max_rows == 0
        preferred = frozenset() if alone else frozenset(batching.preferred_batch_size)
        for size in preferred:
            if not 1 <= size <= max_rows:
                raise ValueError(f"preferred_batch_size must be between 1 and max_batch_size {max_rows}, got {size}")
        delay = 0.0 if alone else batching.max_queue_delay_us / 1e6
        return cls(max_rows, delay, preferred, max(preferred, default=max_rows), alone, shape_change == "flush")


class Walk:
    """The batch being formed at one lane's head. It only grows; when its items change otherwise, walk again.

    count, rows    items and rows walked so far
    kept           items of the size kept by steps 1 and 4; 0 = none
    closed         why nothing can be added any more, None while something can
    oldest         earliest arrival among the walked items
    ripe_at        the instant at which the lane may leave
    """

    __slots__ = ("_latest", "_policy", "closed", "count", "kept", "kept_rows", "key", "oldest", "ripe_at", "rows")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._latest = -inf
        self.count = self.rows = self.kept = self.kept_rows = 0
        self.key: object = None
        self.closed: Reason | None = None
        self.oldest = self.ripe_at = inf

    def add(self, item: Item) -> None:
        """Walks over the next item; only while `closed` is None."""
        policy, total = self._policy, self.rows + item.rows
        if item.arrived > self._latest:
            self._latest = item.arrived
        if not self.count:
            self.key = item.key
        elif total > policy.top and self._overflows(total):
            return
        elif policy.flush and (item.alone or item.key != self.key):
            self._close(Reason.FLUSH)
            return
        self.count += 1
        self.rows = total
        if item.arrived < self.oldest:
            self.oldest = item.arrived
            self.ripe_at = min(self.ripe_at, item.arrived + policy.delay)
        if total in policy.preferred:
            self._keep(self.count, total)
        if policy.alone or item.alone:
            self._close(Reason.ALONE)
        elif total >= policy.max_rows:
            self._close(Reason.FULL)
        elif total >= policy.top:
            self._ripen()

    def _overflows(self, total: int) -> bool:
        """Steps 1 and 2; true where the next item does not fit."""
        if not self.kept:
            self._keep(self.count, self.rows)
        if total <= self._policy.max_rows:
            return False
        self._close(Reason.FULL)
        return True

    def _keep(self, count: int, rows: int) -> None:
        self.kept, self.kept_rows = count, rows
        self._ripen()

    def _close(self, reason: Reason) -> None:
        self.closed = reason
        self._ripen()

    def _ripen(self) -> None:
        """The walked items need not wait for time: ripe since the last of them arrived."""
        self.ripe_at = min(self.ripe_at, self._latest)

    def cut(self, now: float) -> tuple[int, int, Reason]:
        """(items, rows, reason) of the batch that leaves at `now`, which is not before `ripe_at`."""
        policy = self._policy
        late = policy.delay > 0 and self.oldest + policy.delay <= now
        if self.kept and not late:
            return self.kept, self.kept_rows, self._reason(self.kept_rows, late)
        return self.count, self.rows, self._reason(self.rows, late)

    def _reason(self, rows: int, late: bool) -> Reason:
        if self.closed is Reason.ALONE:
            return Reason.ALONE
        if rows in self._policy.preferred and rows < self._policy.max_rows:
            return Reason.PREFERRED
        if self.closed is Reason.FLUSH and rows == self.rows:
            return Reason.FLUSH
        if rows >= self._policy.top or (self.closed is not None and rows == self.rows):
            return Reason.FULL
        if late:
            return Reason.DELAY
        return Reason.FULL if self.kept else Reason.IDLE  # kept by step 1: the next item would overrun the largest preferred


def expiry(policy: QueuePolicy, arrived: float, timeout_us: int = 0) -> float | None:
    """The instant at which a request's waiting ends under `policy`; None = never.

    `timeout_us` is the request's own timeout, 0 = none given. It counts only where the policy allows it and, as in Triton,
    only to shorten the default. Where the default is 0 (no limit) Triton ignores it; here it counts.
    """
    if timeout_us < 0:
        raise InvalidRequest(f"a request's timeout must be 0 or more microseconds, got {timeout_us}")
    limit = policy.default_timeout_us
    if timeout_us and policy.allow_timeout_override:
        limit = min(limit, timeout_us) if limit else timeout_us
    return arrived + limit / 1e6 if limit else None


class Levels:
    """Priority levels with their queue policies. Without declared levels everything is on level 0."""

    def __init__(self, batching: Batching) -> None:
        self._count = batching.priority_levels
        self._default = batching.default_priority_level if self._count else 0
        if self._count and not 1 <= self._default <= self._count:
            raise ValueError(f"default_priority_level must be between 1 and {self._count}, got {self._default}")
        self.policies = dict(batching.priority_queue_policy) if self._count else {}
        for level in self.policies:
            if not 1 <= level <= self._count:
                raise ValueError(f"priority_queue_policy must name levels between 1 and {self._count}, got {level}")
        self._default_policy = batching.default_queue_policy

    @property
    def all(self) -> range:
        """Every level that a request can have."""
        return range(1, self._count + 1) if self._count else range(1)

    def level(self, priority: int) -> int:
        """The level of a request that asks for `priority`."""
        return priority if 1 <= priority <= self._count else self._default

    def policy(self, level: int) -> QueuePolicy:
        return self.policies.get(level, self._default_policy)
