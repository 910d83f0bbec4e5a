"""`Histogram`: how often values fell below each of some bounds. Not thread-safe: its owner has a lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

#: Upper bounds in seconds for times from a tenth of a millisecond to a minute.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts by upper bound, and the sum of all values."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"bounds must ascend, got {list(bounds)}")
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)  # the last one: above all bounds
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def observe_all(self, values: Sequence[float]) -> None:
        """Counts each value once."""
        counts, bounds = self.counts, self.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.sum += sum(values)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(upper bound, how many values are at most that), infinity last."""
        return zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)

    def copy(self) -> Histogram:
        other = Histogram(self.bounds)
        other.counts, other.sum = list(self.counts), self.sum
        return other
