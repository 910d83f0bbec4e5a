"""The printed report, over samples whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from jitney.server.batching.queue import Reason
from jitney.server.repository.config import Batching
from jitney.tools.batch_time import Line
from jitney.tools.bench_report import Sample, ideal_parts, parts, report
from jitney.tools.open_loop import Result as Measured
from jitney.tools.simulate import Result
from jitney.tools.target import Counters, Model

LINE = Line(0.003, 0.001, 1.0, {1: 0.004, 2: 0.005})
MODEL = Model("m", 2, Batching(enabled=True), 1, ())


def sample(mean: float, statuses: dict[str, int] | None = None, starved: int = 0) -> Sample:
    """Four requests: theory has them in two batches of one and one of two, 7 ms each."""
    measured = Measured(4, mean, mean, 2 * mean, 0.5, 0.9, 3, starved, statuses or {"200": 4})
    gained = Counters(4, 28_000_000, 8_000_000, 18_000_000, {1: (2, 8_000_000), 2: (1, 5_000_000)}, {"idle": 2, "full": 1})
    theory = Result(np.full(4, 0.007), 3, 0.5, dict.fromkeys(Reason, 0), {1: 2, 2: 1})
    return Sample(100.0, measured, gained, LINE, theory, None, 0.008)


def test_the_mean_falls_into_parts() -> None:
    late, http, queue, way, worker = parts(sample(9.0))
    assert (late, queue, way, worker) == pytest.approx((0.5, 2.0, 0.5, 4.5))
    assert http == pytest.approx(9.0 - 0.5 - 7.0)
    assert late + http + queue + way + worker == pytest.approx(9.0)
    assert ideal_parts(sample(9.0)) == pytest.approx((2.5, 4.5))


def test_the_report_has_medians_over_the_rounds() -> None:
    lines = list(
        report(MODEL, "somewhere", [LINE] * 3, [0.005, 0.006, 0.009], {0.2: [sample(8.0), sample(9.0), sample(50.0)]})
    )
    text = "\n".join(lines)
    assert "A lone request takes 6.00 ms, 2.00 ms over a batch of one." in text
    row = next(line for line in lines if line.startswith("| 20% | 100 "))
    assert [cell.strip() for cell in row.split("|")[3:12]] == [
        *("9.00", "7.00", "**1.29**", "9.00", "1.00", "9.00", "18.00", "7.00", "8.00")
    ]
    assert "idle 67%, full 33%" in text
    assert "had no answer" not in text


def test_the_report_tells_what_spoils_it() -> None:
    text = "\n".join(report(MODEL, "", [LINE], [0.005], {0.8: [sample(9.0, {"200": 4, "503": 2}, starved=7)]}))
    assert "At 80%, 2 of 6 requests had no answer with 200: {'503': 2}." in text
    assert "7 requests waited for a connection" in text
