"""Bursts of requests whose batches were recorded from a real Triton, in seconds. The models are the repository's `burst_*`.

A case is held when its first request keeps the only instance busy: what arrives meanwhile must be in the queue, unformed, when
the instance is free again. The `*_held` models have a max_queue_size for that reason: with it Triton does not form batches ahead
of a free instance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The max_queue_delay of all models that have one.
DELAY = 1.5


@dataclass(frozen=True)
class BurstRequest:
    """Sent at `at`, answered at `due`, or between the two of it.

    hold     milliseconds of work;  width: the second dimension of INPUT0;  extra: the optional INPUT1 is sent too
    outputs  asked for, none = all
    """

    at: float
    rows: int
    due: float | tuple[float, float]
    hold: int = 0
    width: int = 1
    outputs: Sequence[str] = ()
    params: Mapping[str, Any] | None = None
    extra: bool = False
    status: int = 200


@dataclass(frozen=True)
class BurstCase:
    """batches: executions by size;  order: requests in the order of their replies;  last: only these sizes at the end count."""

    name: str
    model: str
    requests: Sequence[BurstRequest]
    batches: Mapping[int, int]
    order: tuple[int, ...] = ()
    last: tuple[int, ...] = ()

    def has_batches(self, sizes: Sequence[int]) -> bool:
        """Whether batches of these sizes, in ascending order, are as recorded."""
        if self.last:
            rows = sum(size * count for size, count in self.batches.items())
            return sum(sizes) == rows and tuple(sizes[-len(self.last) :]) == self.last
        return Counter(sizes) == Counter(self.batches)


R, Case = BurstRequest, BurstCase


def singles(count: int, at: float, due: float | tuple[float, float], gap: float = 0.0, **more: Any) -> list[BurstRequest]:
    """Requests of one row, the first sent at `at`, the others `gap` seconds apart."""
    return [R(round(at + index * gap, 3), 1, due, **more) for index in range(count)]


def block(milliseconds: int) -> BurstRequest:
    """The request that keeps the instance busy: a full batch, so that no policy makes it wait."""
    return R(0, 8, milliseconds / 1000, hold=milliseconds)


def levels(*priorities: int | None) -> list[BurstRequest]:
    """A busy instance, then one request of 60 ms for each priority (None: not sent)."""
    params = [None if priority is None else {"priority": priority} for priority in priorities]
    later = [R(0.1 + 0.05 * index, 1, (0.9, 5), hold=60, params=given) for index, given in enumerate(params)]
    return [R(0, 1, 0.9, hold=900), *later]


P26, P26H, P46H = "burst_pref26", "burst_pref26_held", "burst_pref46_held"
D0, D = "burst_delay0", "burst_delay"
QUEUE2, TIMEOUT = "burst_queue2", "burst_timeout"
FIRST, SECOND = ("OUTPUT0",), ("BATCH",)

#: Preferred sizes 2 and 6, a delay, an instance that is free.
PREFERRED = [
    Case("static_preferred", P26, [R(0, 2, 0), R(0.2, 6, 0.2)], {2: 1, 6: 1}),
    Case("static_below_preferred", P26, [R(0, 1, DELAY)], {1: 1}),
    Case("static_not_preferred", P26, [R(0, 3, DELAY)], {3: 1}),
    Case("static_full", P26, [R(0, 8, 0)], {8: 1}),
    Case("multi_not_preferred", P26, [R(0, 1, DELAY), R(0.2, 3, DELAY)], {4: 1}),
    Case("multi_above_max_preferred", P26, [R(0, 3, 0.2), R(0.2, 7, 0.2)], {3: 1, 7: 1}),
    Case("multi_pairs", P26, [R(0, 1, 0.1), R(0.1, 1, 0.1), R(0.4, 1, 0.5), R(0.5, 1, 0.5)], {2: 2}),
    Case("outputs_same_first", P26, [R(0, 1, 0.2, outputs=FIRST), R(0.2, 1, 0.2, outputs=FIRST)], {2: 1}),
    Case("outputs_same_second", P26, [R(0, 1, 0.2, outputs=SECOND), R(0.2, 1, 0.2, outputs=SECOND)], {2: 1}),
    Case("outputs_different", P26, [R(0, 1, 0.2, outputs=FIRST), R(0.2, 1, 0.2, outputs=SECOND)], {2: 1}),
    Case(
        "shape_flushes_not_preferred",
        P26,
        [R(0, 1, 0.4, width=16), R(0.2, 3, 0.4, width=16), R(0.4, 1, 0.4 + DELAY, width=8)],
        {4: 1, 1: 1},
    ),
    Case("shape_flushes_single", P26, [R(0, 1, 0.2, width=16), R(0.2, 1, 0.2 + DELAY, width=8)], {1: 2}),
]
#: Requests queue while the instance is busy; with preferred sizes 4 and 6 and no delay these are a preference, no filter.
HELD = [
    Case("held_sum_above_max_preferred", P26H, [block(700), R(0.2, 3, 0.7), R(0.4, 4, 0.4 + DELAY)], {8: 1, 3: 1, 4: 1}),
    Case("held_best_preferred", P26H, [block(700), *singles(2, 0.2, 0.7), R(0.4, 1, 0.4 + DELAY)], {8: 1, 2: 1, 1: 1}),
    Case("held_seven_singles", P26H, [block(700), *singles(6, 0.2, 0.7), R(0.4, 1, 0.4 + DELAY)], {8: 1, 6: 1, 1: 1}),
    Case("held_no_delay_aligned", P46H, [block(700), *singles(4, 0.2, 0.7)], {8: 1, 4: 1}),
    Case("held_no_delay_biggest", P46H, [block(700), *singles(7, 0.2, 0.7)], {8: 1, 6: 1, 1: 1}),
    Case("no_delay_not_preferred", P46H, [R(0, 3, 0)], {3: 1}),
]
#: A delay without preferred sizes, no delay, no batching, a request that is too wide.
DELAYED = [
    Case("delay_single", D, [R(0, 1, DELAY)], {1: 1}),
    Case("delay_full_request", D, [R(0, 8, 0)], {8: 1}),
    Case("delay_ninth_waits_its_own", D, [*singles(8, 0, 0), R(0.2, 1, 0.2 + DELAY)], {8: 1, 1: 1}),
    Case("delay_oversize_pair", D, [R(0, 5, 0.2), R(0.2, 5, 0.2 + DELAY)], {5: 2}),
    Case("delay_two_halves", D, [R(0, 4, 0.2), R(0.2, 4, 0.2)], {8: 1}),
    Case("delay_full_after_one", D, [R(0, 1, 0.2), R(0.2, 8, 0.2)], {1: 1, 8: 1}),
    Case(
        "delay_shapes_alternate",
        D,
        [R(0, 1, 0.2, width=1), R(0.2, 1, 0.4, width=2), R(0.4, 1, 0.6, width=1), R(0.6, 1, 0.6 + DELAY, width=2)],
        {1: 4},
    ),
    Case("no_delay_single", D0, [R(0, 1, 0)], {1: 1}),
    # Triton sometimes splits the last four.
    Case("no_delay_backlog", D0, [block(700), *singles(20, 0.2, 0.7, gap=0.005)], {8: 3, 4: 1}, last=(8, 8, 8)),
    Case("no_batching", "burst_none", singles(5, 0, (0, 1.5), gap=0.05, hold=100), {1: 5}, order=(0, 1, 2, 3, 4)),
    Case("batch_too_large", D0, [R(0, 9, 0, status=400), R(0.1, 8, 0.1)], {8: 1}),
]
#: Ragged and optional inputs, two instances, priority levels 1 to 3 of which 2 is the default.
OTHER = [
    Case("ragged_joins", "burst_ragged", [R(0.1 * i, 1, DELAY, width=w) for i, w in enumerate((1, 2, 1, 2))], {4: 1}),
    Case("optional_same_set", "burst_optional", [R(0, 1, DELAY, extra=True), R(0.2, 1, DELAY, extra=True)], {2: 1}),
    Case("two_instances_parallel", "burst_two", [R(0, 1, 0.7, hold=700), R(0.1, 1, 0.8, hold=700), R(0.3, 1, 0.7)], {1: 3}),
    Case("two_instances_overtake", "burst_two", [R(0, 1, 0.9, hold=900), R(0.1, 1, 0.1)], {1: 2}, order=(1, 0)),
    Case("priority_levels", "burst_priority", levels(3, 3, 2, 1, 1), {1: 6}, order=(0, 4, 5, 3, 1, 2)),
    Case("priority_default", "burst_priority", levels(3, None, 2, 0, 1), {1: 6}, order=(0, 5, 2, 3, 4, 1)),
]
#: A queue of two; a queue timeout of 2 s, which refuses and may be shortened, and one of 1.5 s, which puts behind.
QUEUES = [
    Case("queue_full", QUEUE2, [block(700), *singles(2, 0.2, 0.7), R(0.4, 1, 0.4, status=503)], {8: 1, 2: 1}),
    Case(
        "queue_recovers",
        QUEUE2,
        [block(500), *singles(2, 0.1, 0.5), *singles(3, 0.3, 0.3, status=503), R(2, 1, 2)],
        {8: 1, 2: 1, 1: 1},
    ),
    Case("timeout_refuses", TIMEOUT, [R(0, 1, 3, hold=3000), R(0.1, 1, (2.1, 4), status=503), R(2.7, 1, 3)], {1: 2}),
    Case("timeout_not_reached", TIMEOUT, [R(0, 1, 0.6, hold=600), R(0.1, 1, 0.6)], {1: 2}),
    Case(
        "timeout_shortened",
        TIMEOUT,
        [R(0, 1, 0.9, hold=900), R(0.2, 1, 0.9), R(0.1, 1, (0.3, 1.9), params={"timeout": 200000}, status=503)],
        {1: 2},
    ),
    Case(
        "timeout_puts_behind",
        "burst_timeout_delay",
        [R(0, 1, 2.6, hold=2600), R(0.1, 1, 2.8, hold=100), R(2.2, 1, 2.7, hold=100)],
        {1: 3},
        order=(0, 2, 1),
    ),
]
CASES = [*PREFERRED, *HELD, *DELAYED, *OTHER, *QUEUES]
