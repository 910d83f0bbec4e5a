"""The bursts of tests/conformance, whose outcomes were recorded from a real Triton, run in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from jitney.core.errors import BatchTooWide, QueueFull
from jitney.core.model_config import Batching, QueuePolicy
from jitney.server.batching.queue import Batcher
from jitney.tests.conformance.replay.triton.burst_cases import CASES, BurstCase
from jitney.tests.fakes.server_in_virtual_time import Outcome, Sent, serve

DELAY = 1_500_000
HELD = QueuePolicy(max_queue_size=64)
#: The kit's models: dynamic_batching, max_batch_size, instances.
MODELS: dict[str, tuple[Batching, int, int]] = {
    "burst_delay": (Batching(True, DELAY), 8, 1),
    "burst_delay0": (Batching(True), 8, 1),
    "burst_delay_held": (Batching(True, DELAY, default_queue_policy=HELD), 8, 1),
    "burst_none": (Batching(), 8, 1),
    "burst_optional": (Batching(True, DELAY), 8, 1),
    "burst_pref26": (Batching(True, DELAY, (2, 6)), 8, 1),
    "burst_pref26_held": (Batching(True, DELAY, (2, 6), default_queue_policy=HELD), 8, 1),
    "burst_pref46_held": (Batching(True, 0, (4, 6), default_queue_policy=HELD), 8, 1),
    "burst_priority": (Batching(True, priority_levels=3, default_priority_level=2), 1, 1),
    "burst_queue2": (Batching(True, default_queue_policy=QueuePolicy(max_queue_size=2)), 8, 1),
    "burst_ragged": (Batching(True, DELAY), 8, 1),
    "burst_timeout": (Batching(True, default_queue_policy=QueuePolicy(0, 2_000_000, True)), 1, 1),
    "burst_timeout_delay": (Batching(True, default_queue_policy=QueuePolicy(0, 1_500_000, False, "DELAY")), 1, 1),
    "burst_two": (Batching(True), 1, 2),
}
#: Cases in which Triton closes a batch at a change of shape; with lanes they go otherwise, on purpose.
BY_FLUSH = {"shape_flushes_not_preferred", "shape_flushes_single", "delay_shapes_alternate"}


def _sent(case: BurstCase) -> list[Sent]:
    ragged = case.model == "burst_ragged"
    return [
        Sent(
            float(r.at),
            r.rows,
            (0 if ragged else r.width, r.extra),
            r.hold / 1000,
            int((r.params or {}).get("priority", 0)),
            int((r.params or {}).get("timeout", 0)),
        )
        for r in case.requests
    ]


def _run(case: BurstCase, shape_change: Any) -> Outcome:
    batching, max_rows, instances = MODELS[case.model]
    sent = sorted(enumerate(_sent(case)), key=lambda pair: pair[1].at)
    outcome = serve(Batcher(batching, max_rows, shape_change=shape_change), [one for _, one in sent], instances)
    outcome.answered = {sent[place][0]: at for place, at in outcome.answered.items()}
    outcome.errors = {sent[place][0]: error for place, error in outcome.errors.items()}
    return outcome


def _status(outcome: Outcome, index: int) -> int:
    error = outcome.errors.get(index)
    if error is None:
        return 200
    return 400 if isinstance(error, BatchTooWide) else 503 if isinstance(error, QueueFull) or error == "expired" else 500


@pytest.mark.parametrize("shape_change", ["flush", "lane"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_burst_as_recorded(case: BurstCase, shape_change: str) -> None:
    if shape_change == "lane" and case.name in BY_FLUSH:
        pytest.skip("a lane of its own instead of a flush, on purpose")
    outcome = _run(case, shape_change)
    sizes = sorted(outcome.sizes)
    assert case.has_batches(sizes), sizes
    for index, request in enumerate(case.requests):
        low, high = request.due if isinstance(request.due, tuple) else (request.due - 0.05, request.due + 0.05)
        assert low - 0.001 <= outcome.answered[index] <= high, f"request {index} at {outcome.answered[index]}"
        assert _status(outcome, index) == request.status, f"request {index}: {outcome.errors.get(index)}"
    if case.order:
        assert tuple(sorted(outcome.answered, key=outcome.answered.__getitem__)) == case.order
