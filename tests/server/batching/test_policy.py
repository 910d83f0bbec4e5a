"""Which batches leave when: Triton's table of cases, and what the configuration may say."""

from __future__ import annotations

from typing import Any

import pytest

from jitney.core.errors import InvalidRequest
from jitney.core.model_config import Batching, QueuePolicy
from jitney.server.batching.policy import Levels, Policy, expiry
from jitney.server.batching.queue import Batcher
from jitney.tests.fakes.server_in_virtual_time import Sent, serve

HOLD = 0.7


def singles(count: int, at: float = 0.0, **kw: Any) -> list[Sent]:
    return [Sent(at, **kw) for _ in range(count)]


def block() -> list[Sent]:
    """A full batch that keeps the only worker busy for HOLD seconds."""
    return [Sent(0, 8, hold=HOLD)]


def rows(*pairs: tuple[float, int]) -> list[Sent]:
    return [Sent(at, count) for at, count in pairs]


def left(requests: list[Sent], preferred: tuple[int, ...] = (), delay: float = 0.0, **kw: Any) -> list[tuple[float, int]]:
    """(instant, rows) of each batch, max_batch_size 8, one worker."""
    batching = Batching(True, round(delay * 1e6), preferred)
    return [(at, size) for at, size, _ in serve(Batcher(batching, 8, **kw), requests).left]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (singles(8), [(0, 8)]),
        (singles(3), [(0.05, 3)]),
        (singles(9), [(0, 8), (0.05, 1)]),
        (singles(8) + singles(1, 0.02), [(0, 8), (0.07, 1)]),  # the ninth waits from its own arrival
        (rows((0, 8)), [(0, 8)]),
        (rows((0, 3), (0.01, 3), (0.02, 3)), [(0.02, 6), (0.07, 3)]),  # the third does not fit: the others go
        (rows((0, 5), (0.01, 5)), [(0.01, 5), (0.06, 5)]),
        (rows((0, 7), (0.01, 1)), [(0.01, 8)]),
        (rows((0, 4), (0.01, 4)), [(0.01, 8)]),
        (rows((0, 1), (0.01, 8)), [(0.01, 1), (0.01, 8)]),
    ],
)
def test_a_delay_without_preferred_sizes(requests: list[Sent], expected: list[tuple[float, int]]) -> None:
    assert left(requests, delay=0.05) == expected


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (rows((0, 2), (0.2, 6)), [(0, 2), (0.2, 6)]),
        (rows((0, 7)), [(0, 7)]),  # at least the largest preferred size
        (rows((0, 8)), [(0, 8)]),
        (rows((0, 1)), [(1.5, 1)]),
        (rows((0, 3)), [(1.5, 3)]),
        (rows((0, 4)), [(1.5, 4)]),
        (rows((0, 1), (0.2, 3)), [(1.5, 4)]),
        (rows((0, 3), (0.2, 7)), [(0.2, 3), (0.2, 7)]),
        (singles(1) + singles(1, 0.1) + singles(1, 0.4) + singles(1, 0.5), [(0.1, 2), (0.5, 2)]),
        (block() + rows((0.2, 3), (0.4, 4)), [(0, 8), (HOLD, 3), (1.9, 4)]),
        (block() + singles(2, 0.2) + singles(1, 0.4), [(0, 8), (HOLD, 2), (1.9, 1)]),
        (block() + singles(6, 0.2) + singles(1, 0.4), [(0, 8), (HOLD, 6), (1.9, 1)]),
    ],
)
def test_preferred_sizes_2_and_6_with_a_delay(requests: list[Sent], expected: list[tuple[float, int]]) -> None:
    assert left(requests, (2, 6), 1.5) == expected


@pytest.mark.parametrize(("count", "expected"), [(3, [3]), (4, [4]), (5, [4, 1]), (6, [6]), (7, [6, 1]), (13, [6, 6, 1])])
def test_preferred_sizes_4_and_6_without_a_delay_are_no_filter(count: int, expected: list[int]) -> None:
    assert left(block() + singles(count, 0.2), (4, 6)) == [(0, 8), *((HOLD, size) for size in expected)]


def test_a_late_batch_takes_everything_not_only_the_preferred_size() -> None:
    held = [Sent(0, 8, hold=3.0), *singles(7, 0.2)]
    assert left(held, (2, 6), 1.5) == [(0, 8), (3.0, 7)]


def test_without_a_delay_an_idle_worker_takes_what_is_there() -> None:
    assert left(singles(1)) == [(0, 1)]
    assert left(block() + singles(20, 0.2)) == [(0, 8), (HOLD, 8), (HOLD, 8), (HOLD, 4)]


def test_waiting_for_a_worker_counts_as_waiting() -> None:
    requests = [Sent(0, 8, hold=0.06), Sent(0.02), Sent(0.055)]
    assert left(requests, delay=0.05) == [(0, 8), (0.07, 2)]
    requests[1] = Sent(0.005)
    assert left(requests, delay=0.05) == [(0, 8), (0.06, 2)]


def alternating(count: int, gap: float) -> list[Sent]:
    return [Sent(round(i * gap, 6), key="ab"[i % 2]) for i in range(count)]


def test_two_shapes_interleaved_fill_both_lanes() -> None:
    outcome = serve(Batcher(Batching(True, 50_000), 8), alternating(16, 0.0), workers=2)
    assert outcome.left == [(0, 8, "full"), (0, 8, "full")]
    assert outcome.members == [list(range(0, 16, 2)), list(range(1, 16, 2))]


def test_two_shapes_interleaved_close_each_other_where_a_change_flushes() -> None:
    outcome = serve(Batcher(Batching(True, 1_500_000), 8, shape_change="flush"), alternating(4, 0.2))
    assert outcome.left == [(0.2, 1, "flush"), (0.4, 1, "flush"), (0.6, 1, "flush"), (2.1, 1, "delay")]


def test_a_flush_sends_what_is_not_of_a_preferred_size() -> None:
    requests = [Sent(0, 1), Sent(0.2, 3), Sent(0.4, 1, key="other")]
    assert left(requests, (2, 6), 1.5, shape_change="flush") == [(0.4, 4), (1.9, 1)]


@pytest.mark.parametrize("max_rows", [0, 8])
def test_without_batching_each_request_runs_alone(max_rows: int) -> None:
    outcome = serve(Batcher(Batching(), max_rows), singles(3), workers=2, least_s=0.1)
    assert outcome.left == [(0, 1, "alone"), (0, 1, "alone"), (0.1, 1, "alone")]


@pytest.mark.parametrize("shape_change", ["lane", "flush"])
def test_an_item_that_must_run_alone_is_never_joined(shape_change: Any) -> None:
    requests = [*block(), *singles(2, 0.1), Sent(0.1, alone=True), Sent(0.1, alone=True), *singles(2, 0.1)]
    outcome = serve(Batcher(Batching(True), 8, shape_change=shape_change), requests)
    expected = [[0], [1, 2, 5, 6], [3], [4]] if shape_change == "lane" else [[0], [1, 2], [3], [4], [5, 6]]
    assert outcome.members == expected
    assert [batch.reason for _, batch in outcome.batches if batch.items[0].alone] == ["alone", "alone"]


def test_reasons() -> None:
    def reasons(requests: list[Sent], **kw: Any) -> list[str]:
        return [reason for _, _, reason in serve(Batcher(Batching(True, **kw), 8), requests).left]

    assert reasons(singles(8)) == ["idle"] * 8  # one worker, work without duration
    assert reasons(block() + singles(9, 0.1)) == ["full", "full", "idle"]
    assert reasons(singles(9), max_queue_delay_us=50) == ["full", "delay"]
    assert reasons(rows((0, 5), (0, 5)), max_queue_delay_us=50) == ["full", "delay"]
    assert reasons(rows((0, 2), (0, 7)), preferred_batch_size=(2, 6), max_queue_delay_us=50) == ["preferred", "full"]
    assert reasons(rows((0, 3), (0, 4)), preferred_batch_size=(2, 6), max_queue_delay_us=50) == ["full", "delay"]


@pytest.mark.parametrize(
    ("batching", "max_rows", "text"),
    [
        (Batching(True), -1, "max_batch_size must be 0 or more, got -1"),
        (Batching(True, -5), 8, "max_queue_delay_microseconds must be 0 or more, got -5"),
        (Batching(True, preferred_batch_size=(2, 9)), 8, "between 1 and max_batch_size 8, got 9"),
        (Batching(True, preferred_batch_size=(0,)), 8, "between 1 and max_batch_size 8, got 0"),
        (Batching(True, priority_levels=3), 8, "default_priority_level must be between 1 and 3, got 0"),
        (
            Batching(True, priority_levels=3, default_priority_level=1, priority_queue_policy={4: QueuePolicy()}),
            8,
            "priority_queue_policy must name levels between 1 and 3, got 4",
        ),
    ],
)
def test_impossible_values_are_refused(batching: Batching, max_rows: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Batcher(batching, max_rows)


def test_an_unknown_shape_change_is_refused() -> None:
    with pytest.raises(ValueError, match="shape_change must be 'lane' or 'flush', got 'drop'"):
        Policy.of(Batching(True), 8, "drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("default", "override", "asked", "expected"),
    [
        (0, False, 0, None),
        (0, False, 5_000_000, None),
        (0, True, 5_000_000, 15.0),  # Triton ignores it
        (2_000_000, False, 0, 12.0),
        (2_000_000, False, 1_000_000, 12.0),
        (2_000_000, True, 0, 12.0),
        (2_000_000, True, 1_000_000, 11.0),
        (2_000_000, True, 5_000_000, 12.0),
    ],
)
def test_a_requests_timeout_counts_where_it_is_allowed_and_shorter(
    default: int, override: bool, asked: int, expected: float | None
) -> None:
    policy = QueuePolicy(default_timeout_us=default, allow_timeout_override=override)
    assert expiry(policy, 10.0, asked) == expected


def test_a_negative_timeout_is_the_clients_error() -> None:
    with pytest.raises(InvalidRequest, match="0 or more microseconds, got -1"):
        expiry(QueuePolicy(), 10.0, -1)


def test_priorities_outside_the_levels_mean_the_default() -> None:
    levels = Levels(Batching(True, priority_levels=3, default_priority_level=2))
    assert [levels.level(priority) for priority in (-1, 0, 1, 2, 3, 4, 9)] == [2, 2, 1, 2, 3, 2, 2]
    assert Levels(Batching(True)).level(5) == 0
