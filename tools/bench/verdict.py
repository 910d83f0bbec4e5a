"""What `jitney bench` makes of its figures: how far the server is from theory, where the rest goes, and what may help. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from .parts import ideal_parts, parts

if TYPE_CHECKING:
    from .samples import Reach, Sample, Samples

#: Up to these ratios of the measured mean to theory's a server is close to it, or near it.
CLOSE, NEAR = 1.15, 1.5
#: Shares of the mean, or of the cores, from which something is worth a sentence.
LATE, OTHERS, SLOWER, DELAYED, REFUSED = 0.1, 0.1, 0.2, 0.1, 0.01


def verdict(samples: Samples, reach: Reach | None) -> Iterator[str]:
    """Sentences about the highest load, the clearest first."""
    share = max(samples)
    rounds = samples[share]
    mean, theory = _middle(s.measured.mean for s in rounds), _middle(1e3 * s.theory.mean for s in rounds)
    excess = _excess(rounds, mean - theory)
    at = f"At {share:.0%} load, {rounds[0].rate:,.0f} requests/s, the mean is {mean:.2f} ms"
    if reach is None or reach.by_model:
        ratio = mean / theory
        word = "close to" if ratio <= CLOSE else "near" if ratio <= NEAR else "far from"
        yield f"Verdict: {word} what batching can reach. {at}, {ratio:.2f} × theory's {theory:.2f} ms{excess}."
    else:
        yield (
            f"Verdict: the model is not the limit. Its batches would allow {reach.model:,.0f} requests/s; HTTP and the ways "
            f"between processes let {reach.server:,.0f}/s through on this machine, load generator included. Several rows in a "
            f"request raise that, or front_ends above 1 where there are cores for it. {at}{excess}."
        )
    yield from _doubts(rounds, mean)
    if reach is None or reach.by_model:
        yield from _advice(rounds, theory)


def _excess(rounds: Sequence[Sample], over: float) -> str:
    """Where most of what is over theory goes; "" where there is next to nothing."""
    if over <= 0:
        return ""
    names = (
        "sending late",
        "HTTP",
        "waiting in the queue",
        "the way to the worker and back",
        "slower batches in the worker",
    )
    spent = [_middle(_over(sample)[position] for sample in rounds) for position in range(len(names))]
    most = max(range(len(names)), key=spent.__getitem__)
    return f"; of the {over:.2f} ms over theory, most ({min(over, max(0.0, spent[most])):.2f} ms) goes into {names[most]}"


def _over(sample: Sample) -> tuple[float, float, float, float, float]:
    """Milliseconds of each part that theory does not have."""
    late, http, queue, way, worker = parts(sample)
    ideal_queue, ideal_worker = ideal_parts(sample)
    return late, http, queue - ideal_queue, way, worker - ideal_worker


def _doubts(rounds: Sequence[Sample], mean: float) -> Iterator[str]:
    """Why the figures may not be the server's."""
    others = _middle(sample.cores[1] for sample in rounds)
    if others > OTHERS:
        yield f"Others' work kept {others:.0%} of the cores busy: measure again on a quiet machine."
    lag = _middle(sample.measured.lag for sample in rounds)
    if lag > LATE * mean:
        yield f"The load generator was late by {lag:.2f} ms on average: the machine, not the server, is measured here."
    asked = sum(sum(sample.measured.statuses.values()) for sample in rounds)
    bad = asked - sum(sample.measured.statuses.get("200", 0) for sample in rounds)
    if bad > REFUSED * asked:
        yield f"{bad / asked:.0%} of the requests were not answered with 200, so the mean is that of the rest."


def _advice(rounds: Sequence[Sample], theory: float) -> Iterator[str]:
    declared = [1e3 * sample.declared.mean for sample in rounds if sample.declared]
    if declared and median(declared) > (1 + DELAYED) * theory:
        yield (
            f"The declared delay or preferred sizes cost {median(declared) - theory:.2f} ms of the mean at this load; "
            "dynamic_batching { } alone has none of it."
        )
    slower = _middle(_over(sample)[4] / max(1e-9, ideal_parts(sample)[1]) for sample in rounds)
    if slower > SLOWER:
        yield f"Batches take {slower:.0%} longer in the server than alone: they share the cores; jitney tune tries other threads."


def _middle(values: Iterator[float]) -> float:
    return median(values)
