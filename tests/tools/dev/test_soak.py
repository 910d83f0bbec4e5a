"""Straight lines through what a server holds, and what counts as growing."""

from __future__ import annotations

import pytest

from jitney.tools.dev.soak import MAY_RISE, line_through, plot

HALF_AN_HOUR = [60.0 * minute for minute in range(31)]


@pytest.mark.parametrize(
    ("name", "per_hour", "good"),
    [
        ("server MB", 100.0, False),
        ("server MB", 10.0, True),
        ("descriptors", 20.0, False),
        ("descriptors", 0.0, True),
        ("threads", -5.0, True),
    ],
)
def test_a_series_that_rises_is_told(name: str, per_hour: float, good: bool) -> None:
    line = line_through(name, HALF_AN_HOUR, [50 + per_hour * second / 3600 for second in HALF_AN_HOUR])
    assert line.slope == pytest.approx(per_hour, abs=1e-6) and line.first == pytest.approx(50)
    assert line.good is good


def test_what_rises_by_little_in_a_short_run_is_noise() -> None:
    """A slope of a minute says nothing of an hour."""
    line = line_through("server MB", [0.0, 30.0, 60.0], [50.0, 51.0, 52.0])
    assert line.slope > 100 and line.good


def test_the_chart_shows_every_series_over_the_minutes() -> None:
    looks = [(60.0 * minute, dict.fromkeys(MAY_RISE, float(minute))) for minute in range(4)]
    chart = plot(looks)
    assert chart.startswith("<svg") and all(f">{name}<" in chart for name in MAY_RISE if name != "temporary files")
