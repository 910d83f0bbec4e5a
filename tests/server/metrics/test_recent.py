"""`Recent`: what is kept of the last minute, for how long, and how much of it at most."""

from __future__ import annotations

from jitney.core.call import Call, Times
from jitney.core.errors import ModelFailed
from jitney.core.request import Request
from jitney.server.metrics.recent import PARTS, SAMPLES, SLOT_NS, Recent, Spread

SECOND, MS = 1_000_000_000, 1_000_000
START = 1000 * SECOND


def call(at: int = START, *, waited: int = 2, way: int = 1, failed: bool = False) -> Call:
    """A request answered at `at` after 3 ms in its worker; durations in milliseconds. It was read for 4 ms, rendered for 5."""
    dispatched = at - (way + 3) * MS
    times = Times(dispatched - waited * MS, dispatched, at, MS, MS, MS, dispatched - (waited + 4) * MS, at + 5 * MS)
    return Call(Request(), times=times, error=ModelFailed("no") if failed else None)


def test_batches_are_counted_by_reason_and_size_for_a_minute() -> None:
    recent = Recent(START)
    for _ in range(3):
        recent.left("full", 8, START)
    recent.left("delay", 2, START + 30 * SECOND)
    assert recent.read(START + 59 * SECOND).batches == {("full", 8): 3, ("delay", 2): 1}
    assert recent.read(START + 75 * SECOND).batches == {("delay", 2): 1}
    assert recent.read(START + 200 * SECOND).batches == {}


def test_it_says_which_time_it_covers() -> None:
    recent = Recent(START + 5 * SECOND)
    assert recent.read(START + 9 * SECOND).seconds == 4
    assert recent.read(START + 500 * SECOND + SECOND).seconds == 61


def test_a_long_run_keeps_no_more_than_a_minute_of_it() -> None:
    recent = Recent(START)
    for second in range(1000):
        recent.left("idle", second, START + second * SECOND)
        recent.ran([call()] * 3)
    found = recent.read(START + 999 * SECOND)
    assert sum(found.batches.values()) == 70
    for _ in range(2 * SAMPLES):
        recent.ran([call(START + 999 * SECOND)])
    assert recent.read(START + 999 * SECOND).parts["queue"].count == SAMPLES


def test_a_requests_time_is_split_into_its_parts() -> None:
    recent = Recent(START)
    recent.ran([call()])
    parts = recent.read(START).parts
    assert {part: parts[part].quantile(0.5) for part in PARTS} == {
        "decode": 4 * MS, "queue": 2 * MS, "way": MS, "compute": 3 * MS, "encode": 5 * MS,
    }  # fmt: skip


def test_what_was_not_measured_is_left_out() -> None:
    recent, unseen = Recent(START), call()
    unseen.times.received = unseen.times.sent = 0
    recent.ran([unseen])
    parts = recent.read(START).parts
    assert parts["decode"].quantile(0.5) is None and parts["encode"].count == 0 and parts["way"].count == 1


def test_every_place_of_a_batch_has_its_turn_and_speaks_for_the_whole() -> None:
    recent = Recent(START)
    for _ in range(4):
        recent.ran([call(waited=place) for place in range(4)])
    assert list(recent.read(START).parts["queue"].values) == [(place * MS, 4) for place in range(4)]


def test_failed_requests_have_no_parts_and_old_ones_are_left_out() -> None:
    recent = Recent(START)
    recent.ran([call(failed=True)])
    recent.ran([call(START)])
    assert recent.read(START + SLOT_NS).parts["queue"].count == 1
    assert recent.read(START + 61 * SECOND).parts["queue"].count == 0


def test_quantiles_count_the_weights() -> None:
    spread = Spread([(1, 98), (10, 1), (100, 1)])
    assert [spread.quantile(share) for share in (0.5, 0.98, 0.99, 1.0)] == [1, 1, 10, 100]
    assert spread.mean == 2.08
    assert Spread().quantile(0.5) is None and Spread().mean == 0
