"""Line charts as SVG, for the documents: a few panels side by side with one legend. No library, no fonts, no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

Points = Sequence[tuple[float, float]]

#: Colours that people with any kind of colour vision tell apart (Okabe and Ito), in the order of the series.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 300, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 28, 40
LEGEND = 26


@dataclass(frozen=True)
class Panel:
    """One chart: `series` by name. With `log` the y axis is logarithmic, and all y must be above 0."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Points]
    log: bool = False


@dataclass(frozen=True)
class Axis:
    """Values to pixels, from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)

    def __call__(self, value: float) -> float:
        low, high, at = (log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def svg(panels: Sequence[Panel]) -> str:
    """The panels from left to right. A series has the same colour in each of them. ValueError where there is nothing to draw."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    if not names or not all(points for panel in panels for points in panel.series.values()):
        raise ValueError("a chart needs at least one series, and each series a point")
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    width = WIDTH * len(panels)
    legend, rows = _legend(colours, width)
    height = HEIGHT + LEGEND * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} 0)">', *_panel(panel, colours), "</g>"]
    return "\n".join([*parts, *legend, "</svg>", ""])


def _legend(colours: Mapping[str, str], width: int) -> tuple[list[str], int]:
    """Each series with its colour, in as many rows as they need."""
    parts, x, row = [], float(LEFT), 0
    for name, colour in colours.items():
        wide = 36 + 6.5 * len(name)
        if x > LEFT and x + wide > width:
            x, row = float(LEFT), row + 1
        y = HEIGHT + LEGEND * row
        parts.append(f'<path d="M{x:.0f} {y + 9}h16" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 20:.0f}" y="{y + 13}">{escape(name)}</text>')
        x += wide
    return parts, row + 1


def _panel(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    points = [point for series in panel.series.values() for point in series]
    x = _axis([px for px, _ in points], LEFT, WIDTH - RIGHT, log=False)
    y = _axis([py for _, py in points], HEIGHT - BOTTOM, TOP, log=panel.log)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [f'<text x="{middle}" y="16" text-anchor="middle" font-weight="bold">{escape(panel.title)}</text>']
    for tick in y.ticks:
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x.ticks:
        parts.append(f'<path d="M{x(tick):.1f} {HEIGHT - BOTTOM}v4" stroke="#888"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.x_label)}</text>')
    at = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="rotate(-90 14 {at})" x="14" y="{at}" text-anchor="middle">{escape(panel.y_label)}</text>'
    )
    for name, series in panel.series.items():
        line = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in series)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="2.4" fill="{colours[name]}"/>' for px, py in series]
    return parts


def _axis(values: Sequence[float], start: float, end: float, *, log: bool) -> Axis:
    if log:
        if min(values) <= 0:
            raise ValueError(f"a logarithmic axis takes values above 0, got {min(values)}")
        first, last = floor(log10(min(values))), ceil(log10(max(values)))
        last = max(last, first + 1)
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        ticks = [step * 10.0**power for power in range(first, last) for step in steps] + [10.0**last]
        low = max(tick for tick in ticks if tick <= min(values))
        high = min((tick for tick in ticks if tick >= max(values) and tick > low), default=ticks[-1])
        return Axis(low, high, start, end, True, [tick for tick in ticks if low <= tick <= high])
    rough = (max(values) or 1.0) / 5
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    count = ceil(max(values) / step - 1e-9) or 1
    return Axis(0.0, count * step, start, end, False, [n * step for n in range(count + 1)])
