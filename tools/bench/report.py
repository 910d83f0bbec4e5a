"""What `jitney bench` prints: measured beside theory, where the time went, and the batches. Medians over the rounds. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from .batch_time import Line
from .chart import bars
from .parts import ideal_parts, parts
from .samples import Reach, Sample, Samples
from .target import Model
from .verdict import verdict


def report(
    model: Model, origin: str, lines: Sequence[Line], lone: Sequence[float], samples: Samples, reach: Reach | None
) -> Iterator[str]:
    """The whole report, line by line; the verdict comes last."""
    middle = sorted(lines, key=lambda line: line(max(1, model.max_rows)))[len(lines) // 2]
    overhead = median(seconds - line.points[min(line.points)] for seconds, line in zip(lone, lines, strict=True))
    yield f"{model.name}: batches of at most {max(1, model.max_rows)}, {model.workers} worker(s)."
    yield f"Batch times, {origin}: {middle}."
    yield f"A lone request takes {1e3 * median(lone):.2f} ms, {1e3 * overhead:.2f} ms over a batch of one."
    if reach is not None:
        yield str(reach)
    yield from (
        "",
        "Latency in ms; theory is the mean of zero-delay batching with these batch times, over the same arrivals.",
        "",
    )
    yield from latencies(samples, overhead)
    yield from ("", "Where the mean went, in ms; in brackets what theory says.", "")
    yield from shares(samples)
    yield from ("", "Batches by rows, and why they left; in brackets theory's.", "")
    yield from batches(samples)
    yield from notes(samples)
    yield from ("", *bars(samples), "")
    yield from verdict(samples, reach)


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def latencies(samples: Samples, overhead: float) -> Iterator[str]:
    """`overhead` in seconds: a lone request over a batch of one."""
    with_declared = any(sample.declared for rounds in samples.values() for sample in rounds)
    heads = ["load", "req/s", "mean", "theory", "ratio", "theory + lone", "ratio", "p50", "p99", "p99 in theory", "bound"]
    heads += ["declared policy"] if with_declared else []

    def rows() -> Iterator[Sequence[str]]:
        for share, rounds in samples.items():
            both = _over(rounds, lambda s: 1e3 * (s.theory.mean + overhead))
            ratio = _over(rounds, lambda s: s.measured.mean / (1e3 * s.theory.mean))
            lone_ratio = _over(rounds, lambda s: s.measured.mean / (1e3 * (s.theory.mean + overhead)))
            cells = [f"{share:.0%}", f"{rounds[0].rate:,.0f}", f"{_over(rounds, lambda s: s.measured.mean):.2f}"]
            cells += [f"{_over(rounds, lambda s: 1e3 * s.theory.mean):.2f}", f"**{ratio:.2f}**"]
            cells += [f"{both:.2f}", f"{lone_ratio:.2f}"]
            cells += [f"{_over(rounds, lambda s: s.measured.p50):.2f}", f"{_over(rounds, lambda s: s.measured.p99):.2f}"]
            cells += [f"{_over(rounds, lambda s: 1e3 * s.theory.p99):.2f}"]
            bounds = [1e3 * sample.bound for sample in rounds if sample.bound is not None]
            cells += [f"{median(bounds):.2f}" if bounds else "–"]
            if with_declared:
                cells += [f"{_over(rounds, lambda s: 1e3 * s.declared.mean if s.declared else 0.0):.2f}"]
            yield cells

    yield from _table(heads, rows())


def shares(samples: Samples) -> Iterator[str]:
    """Client's clock, then the server's: arrival to leaving the queue, in the worker, and the ways between."""
    heads = ["load", "sent late", "HTTP", "queue", "to the worker and back", "in the worker", "cores busy (others)"]

    def rows() -> Iterator[Sequence[str]]:
        for share, rounds in samples.items():
            mine = [parts(sample) for sample in rounds]
            ideal = [ideal_parts(sample) for sample in rounds]
            late, http, queue, way, worker = (median(values) for values in zip(*mine, strict=True))
            ideal_queue, ideal_worker = (median(values) for values in zip(*ideal, strict=True))
            cells = [f"{share:.0%}", f"{late:.2f}", f"{http:.2f}", f"{queue:.2f} ({ideal_queue:.2f})"]
            busy, others = (median(values) for values in zip(*(sample.cores for sample in rounds), strict=True))
            yield [*cells, f"{way:.2f}", f"{worker:.2f} ({ideal_worker:.2f})", f"{busy:.0%} ({others:.0%})"]

    yield from _table(heads, rows())


def batches(samples: Samples) -> Iterator[str]:
    groups = sorted(
        {_group(rows) for rounds in samples.values() for s in rounds for rows in (*s.gained.batches, *s.theory.sizes)}
    )
    heads = ["load", "mean", *(_range(group) for group in groups), "left because"]

    def rows() -> Iterator[Sequence[str]]:
        for share, rounds in samples.items():
            seen, ideal, reasons = Counter[int](), Counter[int](), Counter[str]()
            for sample in rounds:
                seen.update({rows: count for rows, (count, _) in sample.gained.batches.items()})
                ideal.update(sample.theory.sizes)
                reasons.update(sample.gained.reasons)
            cells = [f"{share:.0%}", f"{_mean(seen):.1f} ({_mean(ideal):.1f})"]
            cells += [f"{_part(seen, group):.0%} ({_part(ideal, group):.0%})" for group in groups]
            total = max(1, reasons.total())
            yield [*cells, ", ".join(f"{name} {count / total:.0%}" for name, count in reasons.most_common())]

    yield from _table(heads, rows())


def notes(samples: Samples) -> Iterator[str]:
    """What the reader must know before believing the figures."""
    for share, rounds in samples.items():
        statuses = Counter[str]()
        for sample in rounds:
            statuses.update(sample.measured.statuses)
        bad = {status: count for status, count in statuses.items() if status != "200"}
        if bad:
            yield f"\nAt {share:.0%}, {sum(bad.values())} of {statuses.total()} requests had no answer with 200: {bad}."
        starved = sum(sample.measured.starved for sample in rounds)
        if starved:
            yield f"\nAt {share:.0%}, {starved} requests waited for a connection: allow more with --connections."


def _over(rounds: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return median(value(sample) for sample in rounds)


def _group(rows: int) -> int:
    """The power of two that ends the range in which the size is counted: 1, 2, 3-4, 5-8, …"""
    return 1 << (rows - 1).bit_length()


def _range(group: int) -> str:
    return f"{group}" if group <= 2 else f"{group // 2 + 1}–{group}"


def _mean(sizes: Mapping[int, int]) -> float:
    return sum(rows * count for rows, count in sizes.items()) / max(1, sum(sizes.values()))


def _part(sizes: Mapping[int, int], group: int) -> float:
    return sum(count for rows, count in sizes.items() if _group(rows) == group) / max(1, sum(sizes.values()))
