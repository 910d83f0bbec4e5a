"""What `jitney tune` prints: a table of all candidates, bars, and a chart as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..bench.plot import Panel, svg
from .accuracy import Accuracy
from .search import Candidate

BAR = 40
#: Lines of the chart: more cannot be told apart.
MOST_LINES = 6


def table(candidates: Sequence[Candidate], best: Candidate, sizes: Sequence[int]) -> str:
    """Markdown: rows per second at each batch size, latency of the smallest and the largest batch, and how far answers are from
    the plain model's (`accuracy`)."""
    heads = ["", "variant", "workers × threads", *(f"batch {rows}" for rows in sizes)]
    heads += [f"ms, batch {sizes[0]}", f"ms, batch {sizes[-1]} (p95)"]
    heads += ["largest difference", "of the largest output", "top-1", "rounds (spread)"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for candidate in candidates:
        points = candidate.points()
        cells = ["**best**" if candidate is best else "", candidate.variant.name, str(candidate.arrangement)]
        if not points:
            lines.append(
                "| " + " | ".join([*cells, f"failed: {candidate.failed}" if candidate.failed else "no time"]) + " |"
            )
            continue
        cells += [f"{points[rows].rate:,.1f}/s" for rows in sizes]
        first, last = points[sizes[0]], points[sizes[-1]]
        cells += [f"{1e3 * first.median:.2f}", f"{1e3 * last.median:.1f} ({1e3 * last.p95:.1f})"]
        accuracy = candidate.accuracy or Accuracy()
        cells += [f"{accuracy.absolute:.1e}", f"{accuracy.relative:.1e}", accuracy.top1]
        cells += [f"{len(candidate.results)} ({candidate.spread:.0%})"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars(candidates: Sequence[Candidate], best: Candidate) -> str:
    """One bar for each candidate's best rate."""
    measured = [candidate for candidate in candidates if candidate.results]
    most = max(candidate.rate for candidate in measured)
    width = max(len(str(candidate)) for candidate in measured)
    lines = []
    for candidate in measured:
        bar = "█" * max(1, round(BAR * candidate.rate / most))
        mark = "  ◀ best" if candidate is best else ""
        lines.append(f"{candidate!s:<{width}}  {bar:<{BAR}}  {candidate.rate:,.1f}/s{mark}")
    return "\n".join(lines)


def write_chart(file: Path, model: str, candidates: Sequence[Candidate], best: Candidate) -> None:
    """Throughput and latency over the batch size, for the best candidate and the fastest others."""
    measured = [candidate for candidate in candidates if candidate.results]
    chosen = [best, *sorted((c for c in measured if c is not best), key=lambda c: -c.rate)][:MOST_LINES]
    rates = {str(c): [(float(rows), point.rate) for rows, point in c.points().items()] for c in chosen}
    times = {str(c): [(float(rows), 1e3 * point.median) for rows, point in c.points().items()] for c in chosen}
    panels = [
        Panel(f"{model}: throughput", "rows in a batch", "rows/s", rates),
        Panel(f"{model}: time of a batch", "rows in a batch", "ms, median", times),
    ]
    file.write_text(svg(panels), encoding="utf-8")
