"""The printed report, over samples whose figures are known."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jitney.core.model_config import Batching
from jitney.server.batching.queue import Reason
from jitney.tools.bench.batch_time import Line
from jitney.tools.bench.chart import bars, write
from jitney.tools.bench.open_loop import Result as Measured
from jitney.tools.bench.parts import ideal_parts, parts
from jitney.tools.bench.report import report
from jitney.tools.bench.samples import Reach, Sample
from jitney.tools.bench.simulate import Result
from jitney.tools.bench.target import Counters, Model
from jitney.tools.bench.verdict import verdict

LINE = Line(0.003, 0.001, 1.0, {1: 0.004, 2: 0.005})
ENOUGH = Reach(model=500.0, server=480.0, clients=8, full=500.0)
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
        report(
            MODEL, "somewhere", [LINE] * 3, [0.005, 0.006, 0.009], {0.2: [sample(8.0), sample(9.0), sample(50.0)]}, ENOUGH
        )
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
    text = "\n".join(report(MODEL, "", [LINE], [0.005], {0.8: [sample(9.0, {"200": 4, "503": 2}, starved=7)]}, None))
    assert "At 80%, 2 of 6 requests had no answer with 200: {'503': 2}." in text
    assert "7 requests waited for a connection" in text


def the_verdict(*rounds: Sample, reach: Reach | None = ENOUGH) -> str:
    return "\n".join(verdict({0.2: [sample(500.0)], 0.8: list(rounds)}, reach))


def test_the_verdict_is_about_the_highest_load_and_says_where_the_rest_goes() -> None:
    text = the_verdict(sample(8.0), sample(8.0), sample(50.0))
    assert text.startswith(
        "Verdict: close to what batching can reach. At 80% load, 100 requests/s, the mean is 8.00 ms, 1.14 × "
    )
    assert "of the 1.00 ms over theory, most (0.50 ms) goes into " in text
    assert the_verdict(sample(9.0)).startswith("Verdict: near what batching can reach.")
    far = the_verdict(sample(20.0))
    assert far.startswith("Verdict: far from what batching can reach.") and "most (12.50 ms) goes into HTTP" in far


def test_the_verdict_of_a_model_that_is_not_the_limit() -> None:
    text = the_verdict(sample(9.0), reach=Reach(model=100_000.0, server=1_200.0, clients=16, full=1_200.0))
    assert text.startswith("Verdict: the model is not the limit. Its batches would allow 100,000 requests/s; ")
    assert "let 1,200/s through" in text and "× theory" not in text


def test_the_verdict_names_what_makes_the_figures_doubtful() -> None:
    busy = replace(sample(9.0, {"200": 3, "503": 1}), cores=(0.9, 0.4))
    text = the_verdict(replace(busy, measured=replace(busy.measured, lag=2.0)))
    assert "Others' work kept 40% of the cores busy" in text
    assert "The load generator was late by 2.00 ms" in text
    assert "25% of the requests were not answered with 200" in text
    assert "\n" not in the_verdict(sample(8.0))


def test_the_verdict_names_what_may_help() -> None:
    delayed = replace(sample(9.0), declared=Result(np.full(4, 0.009), 3, 0.5, dict.fromkeys(Reason, 0), {1: 2, 2: 1}))
    assert "The declared delay or preferred sizes cost 2.00 ms of the mean" in the_verdict(delayed)
    slower = replace(sample(9.0), gained=replace(sample(9.0).gained, compute=24_000_000, total=34_000_000))
    assert "Batches take 33% longer in the server than alone" in the_verdict(slower)


def test_bars_have_one_scale() -> None:
    lines = list(bars({0.2: [sample(14.0)], 0.8: [sample(28.0)]}))
    assert [line.count("█") for line in lines] == [20, 10, 40, 10]
    assert "14.00 ms" in lines[0] and "7.00 ms" in lines[1]


def test_the_chart_has_both_percentiles_of_all_loads(tmp_path: Path) -> None:
    write(tmp_path / "c.svg", "m", {0.2: [sample(8.0)], 0.8: [sample(9.0)]})
    root = ET.fromstring((tmp_path / "c.svg").read_text())
    drawn = [line.attrib["points"].split() for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in drawn] == [2, 2, 2, 2]


def test_what_loads_are_shares_of() -> None:
    assert str(ENOUGH).endswith("8 clients that never pause were answered 480/s: loads are shares of the former.")
    assert str(Reach(9_000.0, 480.0, 8, 480.0)).endswith("loads are shares of the latter.")
    assert str(Reach(90_000.0, 60_000.0, 8, 25_000.0)).endswith("loads are shares of 25,000/s.")
