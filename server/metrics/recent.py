"""`Recent`: the last minute of one model version: the sizes of its batches, and where the time of its requests went.

What it holds is bounded: a count for each reason and size in each of seven slots of ten seconds, and the times of one request of
each of the latest batches. The request counts for its whole batch. A request's `Times` are kept as they are and read when
the page asks, so a request costs nothing here and a batch a fraction of a microsecond.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...core.call import Call, Times

SLOT_NS = 10_000_000_000
#: The slot that is being filled, and the minute before it.
SLOTS = 7
MINUTE_NS = (SLOTS - 1) * SLOT_NS
#: Batches of which a request's times are kept.
SAMPLES = 2048
#: Where the time of a request goes, in order: HTTP's bytes to tensors, waiting, to the worker and back beyond the worker's own
#: time, the worker's own time, tensors to HTTP's bytes.
PARTS = ("decode", "queue", "way", "compute", "encode")


@dataclass(frozen=True)
class Spread:
    """Durations in nanoseconds, each with how many requests it stands for, ascending."""

    values: Sequence[tuple[int, int]] = ()

    @property
    def count(self) -> int:
        return sum(weight for _, weight in self.values)

    @property
    def mean(self) -> float:
        return sum(ns * weight for ns, weight in self.values) / max(1, self.count)

    def quantile(self, share: float) -> int | None:
        """The smallest duration that at least this share of the requests did not exceed; None of nothing."""
        wanted, seen = share * self.count, 0
        for ns, weight in self.values:
            seen += weight
            if seen >= wanted:
                return ns
        return None


@dataclass(frozen=True)
class LastMinute:
    """`batches` counts those of the last `seconds` by reason and rows; `parts` has a spread for each of PARTS."""

    seconds: float = 0.0
    batches: Mapping[tuple[str, int], int] = field(default_factory=dict)
    parts: Mapping[str, Spread] = field(default_factory=dict)


class Recent:
    """Times are monotonic nanoseconds. Not thread-safe: its owner has a lock."""

    def __init__(self, now: int) -> None:
        self._began, self._ends, self._turn = now, 0, 0
        self._sizes: dict[tuple[str, int], int] = {}
        self._slots: deque[tuple[int, dict[tuple[str, int], int]]] = deque(maxlen=SLOTS)
        self._samples: deque[tuple[Times, int]] = deque(maxlen=SAMPLES)

    def left(self, reason: str, rows: int, now: int) -> None:
        """A batch left the queue."""
        if now >= self._ends:
            self._sizes = {}
            self._slots.append((now // SLOT_NS, self._sizes))
            self._ends = (now // SLOT_NS + 1) * SLOT_NS
        size = (reason, rows)
        self._sizes[size] = self._sizes.get(size, 0) + 1

    def ran(self, calls: Sequence[Call]) -> None:
        """A batch was executed: another one of its calls in turn speaks for all."""
        count, self._turn = len(calls), self._turn + 1
        call = calls[self._turn % count] if count > 1 else calls[0]
        if call.error is None:
            self._samples.append((call.times, count))

    def read(self, now: int) -> LastMinute:
        """A copy that does not change any more."""
        first = now // SLOT_NS - SLOTS + 1
        batches: Counter[tuple[str, int]] = Counter()
        for number, sizes in self._slots:
            if number >= first:
                batches.update(sizes)
        begin = max(self._began, first * SLOT_NS)
        since = now - MINUTE_NS
        kept = [(times, weight) for times, weight in self._samples if times.answered >= since]
        return LastMinute(max(0, now - begin) / 1e9, dict(batches), {part: _spread(part, kept) for part in PARTS})


def _spread(part: str, samples: Iterable[tuple[Times, int]]) -> Spread:
    return Spread(sorted(_durations(part, samples)))


def _durations(part: str, samples: Iterable[tuple[Times, int]]) -> Iterator[tuple[int, int]]:
    """Clocks of two processes are one clock; all the same a duration that is made of others may come out below 0."""
    for times, weight in samples:
        worked = times.compute_input + times.compute_infer + times.compute_output
        match part:
            case "decode" if times.received:
                yield max(0, times.arrived - times.received), weight
            case "queue":
                yield max(0, times.dispatched - times.arrived), weight
            case "way":
                yield max(0, times.answered - times.dispatched - worked), weight
            case "compute":
                yield worked, weight
            case "encode" if times.sent:
                yield max(0, times.sent - times.answered), weight
