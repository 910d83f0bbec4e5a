"""What `jitney bench` draws: bars for the terminal and a chart as SVG. Medians over the rounds. Pure, but for the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from .plot import Panel, svg

if TYPE_CHECKING:
    from .samples import Sample, Samples

BAR = 40


def bars(samples: Samples) -> Iterator[str]:
    """Two bars for each load: the measured mean, and theory's below it."""
    means = {share: _middle(rounds, _MEAN["measured"]) for share, rounds in samples.items()}
    ideal = {share: _middle(rounds, _MEAN["theory"]) for share, rounds in samples.items()}
    most = max(*means.values(), *ideal.values())
    for share in samples:
        yield f"{share:>4.0%}  measured  {_bar(means[share], most)}  {means[share]:.2f} ms"
        yield f"      theory    {_bar(ideal[share], most)}  {ideal[share]:.2f} ms"


def _bar(value: float, most: float) -> str:
    return f"{'█' * max(1, round(BAR * value / most)):<{BAR}}"


def write(file: Path, model: str, samples: Samples) -> None:
    """Mean and 99th percentile over the load, beside theory's; the declared policy's mean where there is one."""
    mean = dict(_MEAN)
    if any(sample.declared for rounds in samples.values() for sample in rounds):
        mean["declared policy in theory"] = lambda sample: 1e3 * sample.declared.mean if sample.declared else 0.0
    panels = [
        Panel(f"{model}: mean latency", "load in %", "ms", _series(mean, samples)),
        Panel(f"{model}: 99th percentile", "load in %", "ms", _series(_P99, samples)),
    ]
    file.write_text(svg(panels), encoding="utf-8")


Figure = Callable[["Sample"], float]
_MEAN: Mapping[str, Figure] = {"measured": lambda s: s.measured.mean, "theory": lambda s: 1e3 * s.theory.mean}
_P99: Mapping[str, Figure] = {"measured": lambda s: s.measured.p99, "theory": lambda s: 1e3 * s.theory.p99}


def _series(figures: Mapping[str, Figure], samples: Samples) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(100 * share, _middle(rounds, figure)) for share, rounds in samples.items()]
        for name, figure in figures.items()
    }


def _middle(rounds: Sequence[Sample], figure: Figure) -> float:
    return median(figure(sample) for sample in rounds)
