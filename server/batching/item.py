"""What waits and what leaves: `Item`, `Batch`, `Step`, and `Reason`, which says why a batch left."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a batch left."""

    ALONE = "alone"  # batching is off, or the item must run by itself
    FULL = "full"  # the next item does not fit, or the batch has the maximum or at least the largest preferred size
    PREFERRED = "preferred"  # exactly a preferred size below the maximum
    FLUSH = "flush"  # the next item has another key, and keys do not have lanes of their own
    DELAY = "delay"  # the oldest item waited the declared delay
    IDLE = "idle"  # no delay is declared: taken because a worker was idle


@dataclass(slots=True, eq=False)
class Item:
    """One waiting request. Times are seconds of one monotonic clock.

    rows      what it costs, at least 1: the size of the batch axis, 1 for models without one
    key       items are batched only with items of an equal key
    expires   the instant at which waiting ends; None = never (see `policy.expiry`)
    priority  as the client sent it: 1 is the highest, 0 or above the declared levels means the default level
    alone     it must be executed by itself, whatever the batch size (TorchServe's describe)
    """

    payload: Any = field(repr=False)  # may be megabytes, and the client's
    rows: int
    key: Hashable
    arrived: float
    expires: float | None = None
    priority: int = 0
    alone: bool = False
    # Written by the Batcher that holds the item: the `lane.Lane` that it waits in, None while none holds it.
    lane: Any = field(default=None, init=False, repr=False)
    rank: int = field(default=0, init=False, repr=False)
    number: int = field(default=0, init=False, repr=False)


@dataclass(slots=True)
class Batch:
    """Items that leave together, in the order in which they are to be executed; `rows` is their sum."""

    items: list[Item]
    rows: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Line:
    """Those of one lane and one priority level that wait. `overdue`: they overran a timeout whose action is DELAY.

    key     what they have in common; None where all of a model's requests do
    oldest  seconds for which the first of them has waited
    """

    key: Hashable
    level: int
    overdue: bool
    requests: int
    rows: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a model's workers at one moment."""

    requests: int = 0
    rows: int = 0
    oldest: float = 0.0
    lines: tuple[Line, ...] = ()


@dataclass(slots=True)
class Step:
    """What one poll decided.

    batches  one for each worker to be used now, at most as many as were idle
    expired  items whose deadline passed; they are no longer waiting
    wake_at  the next instant at which time alone changes something, later than now; None = not before another event
    """

    batches: list[Batch]
    expired: list[Item]
    wake_at: float | None
