"""They count what the metrics themselves would have counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jitney.core.call import Times
from jitney.server.metrics.request_counters import RequestCounters
from jitney.server.metrics.torchserve import TorchServeMetrics

#: Long ago, so that a moment between two readings of the clock does not matter.
TIMES = Times(arrived=1, dispatched=5_000_001, answered=9_000_001, compute_infer=1_000_000)


def values(metrics: TorchServeMetrics) -> dict[str, list[float]]:
    found = {name: sorted(series.values()) for name, series in metrics._values.items() if series}
    found.pop("ts_inference_latency_microseconds", None)
    return found


@pytest.mark.parametrize("mode", ["prometheus", "legacy"])
def test_they_change_what_the_metrics_would(mode: str) -> None:
    plain, other = TorchServeMetrics(mode), TorchServeMetrics(mode)
    for version in (None, "2.0"):
        plain.requested("m", version)
        plain.answered("m", version, TIMES)
        plain.responded(200)
        counters = RequestCounters(other, "m", version)
        counters.requested()
        counters.answered(TIMES)
    assert values(other) == values(plain) != {}
    assert (
        other._values["ts_inference_latency_microseconds"].keys()
        == plain._values["ts_inference_latency_microseconds"].keys()
    )


def test_a_log_is_written_where_somebody_reads_it(caplog: pytest.LogCaptureFixture) -> None:
    counters = RequestCounters(TorchServeMetrics("log"), "m", None)
    with caplog.at_level(logging.CRITICAL, "jitney.metrics"):
        counters.requested()
        counters.answered(TIMES)
    assert not caplog.records
    with caplog.at_level(logging.INFO, "jitney.metrics"):
        counters.requested()
        counters.answered(TIMES)
    names = [record.getMessage().partition(".")[0] for record in caplog.records]
    assert names[0] == "ts_inference_requests_total" and {"QueueTime", "Requests2XX"} < set(names)


def test_metrics_declared_otherwise_are_kept_as_they_are_declared(tmp_path: Path) -> None:
    declared = tmp_path / "metrics.yaml"
    declared.write_text(
        "ts_metrics:\n  histogram:\n    - {name: QueueTime, unit: Milliseconds, dimensions: [Level]}\n"
        "  counter:\n    - {name: Requests2XX, unit: Count, dimensions: [Level]}\n"
    )
    metrics = TorchServeMetrics("prometheus", str(declared))
    counters = RequestCounters(metrics, "m", None)
    counters.requested()
    counters.answered(TIMES)
    assert metrics._values["Requests2XX"] == {("Host",): 1.0}
    assert metrics._histograms["QueueTime"][("Host",)].sum == 5.0
