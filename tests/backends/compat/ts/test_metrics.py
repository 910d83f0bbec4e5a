"""context.metrics: what reaches the server."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from jitney.backends.compat.ts.metrics import sink, system_metrics
from jitney.backends.compat.ts.metrics.caching_metric import CachingMetric
from jitney.backends.compat.ts.metrics.dimension import Dimension
from jitney.backends.compat.ts.metrics.metric import Metric
from jitney.backends.compat.ts.metrics.metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from jitney.backends.compat.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from jitney.backends.compat.ts.metrics.metric_encoder import MetricEncoder
from jitney.backends.compat.ts.metrics.metric_type_enum import MetricTypes
from jitney.backends.compat.ts.metrics.metrics_store import MetricsStore
from jitney.backends.compat.ts.metrics.process_memory_metric import check_process_mem_usage, get_cpu_usage
from jitney.backends.compat.ts.service import emit_metrics
from jitney.tests.fakes.handler_metrics import made_metrics


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    metrics: list[dict[str, Any]] = []
    monkeypatch.setattr(sink, "_emit", metrics.append)
    return metrics


@pytest.fixture
def metrics(sent: list[Any]) -> MetricsCacheYamlImpl:
    return made_metrics("net", {0: "a", 1: "b"})


def test_all_kinds(metrics: MetricsCacheYamlImpl, sent: list[Any]) -> None:
    metrics.add_counter("c", 2, 1)
    metrics.add_time("t", 3, None, "s", metric_type=MetricTypes.HISTOGRAM)
    metrics.add_size("z", 4, unit="GB")
    metrics.add_percent("p", 5, 7)
    metrics.add_metric("m", 6, "widgets", dimensions=[Dimension("D", "x")], metric_type=MetricTypes.GAUGE)
    assert [(m["name"], m["value"], m["unit"], m["type"], m["request_ids"]) for m in sent] == [
        ("c", 2.0, "Count", "COUNTER", ["b"]),
        ("t", 3.0, "Seconds", "HISTOGRAM", ["a", "b"]),
        ("z", 4.0, "Gigabytes", "GAUGE", ["a", "b"]),
        ("p", 5.0, "Percent", "GAUGE", ["a", "b"]),  # no request 7: all of them
        ("m", 6.0, "widgets", "GAUGE", ["a", "b"]),
    ]
    assert list(sent[-1]["dimensions"].items()) == [("D", "x"), ("ModelName", "net"), ("Level", "Model")]


def test_dimensions_of_the_handler_s_own_stay_as_they_are(metrics: MetricsCacheYamlImpl, sent: list[Any]) -> None:
    own = [Dimension("ModelName", "other"), Dimension("Level", "Stage"), Dimension("Step", 1)]
    metrics.add_counter("c", 1, dimensions=own)
    metrics.add_time("t", 5, dimensions=own[1:2])
    metrics.add_error("e", 1, own[1:2])
    assert [list(m["dimensions"].items()) for m in sent] == [
        [("ModelName", "other"), ("Level", "Stage"), ("Step", "1")],
        [("Level", "Stage"), ("ModelName", "net")],
        [("Level", "Stage")],
    ]
    assert len(own) == 3  # the caller's list is not appended to


def test_a_value_goes_by_its_dimensions_names_and_others_are_refused(
    metrics: MetricsCacheYamlImpl, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    metrics.add_time("t", 1)
    metrics.add_time("t", 2, dimensions=[Dimension("Level", "x")])
    assert sent[1]["dimensions"] == {"ModelName": "net", "Level": "x"}
    metrics.add_time("t", 3, dimensions=[Dimension("More", "x")])
    metrics.add_time("HandlerTime", 3, dimensions=[Dimension("More", "x")])
    assert len(sent) == 2 and "'t' was not updated by 3" in caplog.text and "'HandlerTime' was not updated" in caplog.text


def test_errors_have_a_level_of_their_own(metrics: MetricsCacheYamlImpl, sent: list[Any]) -> None:
    metrics.add_error("e", 1)
    metrics.set_request_ids(None)
    metrics.add_counter("none", 1)
    metrics.set_request_ids("while loading")
    metrics.add_counter("loading", 1)
    assert (sent[0]["dimensions"], sent[0]["unit"], sent[0]["type"]) == ({"Level": "Error"}, "unit", "COUNTER")
    assert (sent[1]["dimensions"], sent[1]["request_ids"]) == ({"Level": "Error"}, [])
    assert (sent[2]["dimensions"]["Level"], sent[2]["request_ids"]) == ("Model", ["while loading"])


def test_declared_metrics(metrics: MetricsCacheYamlImpl, sent: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    metric = metrics.add_metric_to_cache("d", "ms", ["A", "Level"], MetricTypes.GAUGE)
    metric.add_or_update(1.5, ["x", "Own"], "id")
    metrics.get_metric("d", MetricTypes.GAUGE).add_or_update(2, ["y", "Own"])
    assert [(m["value"], m["dimensions"], m["request_ids"]) for m in sent] == [
        (1.5, {"A": "x", "Level": "Own"}, ["id"]),
        (2.0, {"A": "y", "Level": "Own"}, []),
    ]
    assert metrics.cache_keys() == ["gauge:HandlerTime", "gauge:PredictionTime", "gauge:d"]
    for wrong in ([], ["x"], None):
        metric.add_or_update(1, wrong)  # type: ignore[arg-type]
    metric.add_or_update("many", ["x", "y"])  # type: ignore[arg-type]
    assert len(sent) == 2 and caplog.text.count("metric 'd' was not updated by") == 4
    with pytest.raises(MetricsCacheKeyError, match=r"^no counter named 'd' was declared$"):
        metrics.get_metric("d")
    with pytest.raises(MetricsCacheTypeError):
        metrics.get_metric(5)  # type: ignore[arg-type]
    with pytest.raises(MetricsCacheTypeError, match="list of names"):
        metrics.add_metric_to_cache("d", "ms", "A")


def test_the_older_way_to_update_a_declared_metric(sent: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    metric = CachingMetric("d", "count", ["A"])
    metric.update(1, "id", [Dimension("ModelName", "m"), Dimension("Level", "l")])
    metric.add_or_update(2, ["n", "k"])
    metric.emit_metrics("id", 3, "ModelName:o,Level:a:b")
    assert [m["dimensions"] for m in sent] == [
        {"ModelName": "m", "Level": "l"},
        {"ModelName": "n", "Level": "k"},
        {"ModelName": "o", "Level": "a:b"},
    ]
    assert "had the dimensions ['A']" in caplog.text


def test_negative_counts_are_dropped_and_wrong_units_refused(
    metrics: MetricsCacheYamlImpl, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    metrics.add_counter("c", -1)
    assert not sent and "'c' was not updated by -1" in caplog.text
    with pytest.raises(MetricsCacheValueError, match="'min'; expected ms or s"):
        metrics.add_time("t", 1, unit="min")
    with pytest.raises(ValueError, match="'TB'"):
        metrics.add_size("t", 1, unit="TB")


def test_yaml(tmp_path: Path, sent: list[Any]) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text("model_metrics:\n  counter:\n    - {name: n, unit: Count, dimensions: [A]}\n  gauge:\n")
    cache = MetricsCacheYamlImpl(str(path))
    cache.initialize_cache()
    cache.get_metric("n").add_or_update(1, ["x"])
    assert sent[0]["dimensions"] == {"A": "x"}
    for text, error in (
        ("ts_metrics: {}", MetricsCacheKeyError),
        ("model_metrics:\n  counter: [{name: n}]", MetricsCacheKeyError),
        ("model_metrics:\n  meter: [{name: n}]", MetricsCacheKeyError),
        ("model_metrics: {}", MetricsCacheValueError),
        ("[", MetricsCachePyYamlError),
    ):
        path.write_text(text)
        with pytest.raises(error, match=r"metrics\.yaml"):
            MetricsCacheYamlImpl(str(path)).initialize_cache()
    with pytest.raises(MetricsCacheIOError, match="nowhere"):
        MetricsCacheYamlImpl(str(tmp_path / "nowhere"))
    with pytest.raises(MetricsCacheTypeError):
        MetricsCacheYamlImpl("")


def test_a_store_keeps_metrics_until_they_are_emitted(sent: list[Any]) -> None:
    store = MetricsStore({0: "r"}, "old")
    store.add_counter("c", 1)
    store.add_time("t", 2, dimensions=[Dimension("ModelName", "own")])
    store.add_error("e", 1)
    assert not sent
    emit_metrics(store.store)
    assert [(m["name"], m["dimensions"], m["request_ids"]) for m in sent] == [
        ("c", {"ModelName": "old", "Level": "Model"}, ["r"]),
        ("t", {"ModelName": "own", "Level": "Model"}, ["r"]),
        ("e", {"Level": "Error"}, []),
    ]
    store.add_counter("c", 5)
    assert sent[-1]["value"] == 5.0 and len(store.store) == 3


def test_legacy_metrics(sent: list[Any]) -> None:
    metric = Metric("x", 1, "ms", [Dimension("A", "b")], "r", "counter")
    metric.update(2)
    emit_metrics([metric])
    metric.reset()
    assert [m["value"] for m in sent] == [2.0, 1.0, 0.0]
    assert str(metric).startswith("x.Milliseconds:1|#A:b|#hostname:") and str(metric).endswith(",r")
    shown = json.loads(json.dumps(metric, cls=MetricEncoder))
    assert list(shown) == ["MetricName", "Value", "Unit", "Dimensions", "Timestamp", "HostName", "RequestId"]
    assert shown["Dimensions"] == [{"Name": "A", "Value": "b"}]


def test_without_a_server_metrics_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Metric("x", 1, "ms", [Dimension("A", "b")], "r").emit()
    printed = capsys.readouterr().out
    assert printed.startswith("[METRICS]x.Milliseconds:1.0|#A:b|#type:COUNTER|#hostname:") and printed.endswith(",r\n")


def test_process_memory(caplog: pytest.LogCaptureFixture) -> None:
    assert get_cpu_usage(str(os.getpid())) > 1 << 20
    (line,) = check_process_mem_usage(io.StringIO(f"{os.getpid()}\n"))
    pid, size = line.split(":")
    assert (int(pid), int(size) > 1 << 20) == (os.getpid(), True)
    assert check_process_mem_usage("nothing,") == ["nothing:0"]
    assert "the memory of process nothing cannot be read" in caplog.text


def test_system_metrics(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "system_metrics", [])
    with caplog.at_level(logging.INFO):
        system_metrics.collect_all(system_metrics, 1)
    names = {metric.name for metric in system_metrics.system_metrics}
    assert {"CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization"} <= names
    assert {"DiskUsage", "DiskUtilization", "DiskAvailable"} <= names
    assert "MemoryUsed.Megabytes:" in caplog.text
