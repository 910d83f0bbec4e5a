"""context.metrics: what reaches the server."""

from __future__ import annotations

import pytest

from jitney.backends.compat.ts.metrics import sink
from jitney.backends.compat.ts.metrics.dimension import Dimension
from jitney.backends.compat.ts.metrics.metric import Metric
from jitney.backends.compat.ts.metrics.metric_cache_abstract import MetricCacheAbstract
from jitney.backends.compat.ts.metrics.metric_cache_errors import (
    MetricsCacheKeyError,
    MetricsCachePyTypeError,
    MetricsCacheTypeError,
)
from jitney.backends.compat.ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from jitney.backends.compat.ts.metrics.metric_type_enum import MetricTypes
from jitney.backends.compat.ts.metrics.metrics_store import MetricsStore
from jitney.backends.compat.ts.metrics.process_memory_metric import check_process_mem_usage
from jitney.backends.compat.ts.service import emit_metrics


@pytest.fixture
def sent(monkeypatch):
    metrics: list[dict] = []
    monkeypatch.setattr(sink, "_emit", metrics.append)
    return metrics


@pytest.fixture
def metrics(sent):
    return MetricCacheAbstract("net", {0: "a", 1: "b"})


def test_all_kinds(metrics, sent):
    metrics.add_counter("c", 2, 1)
    metrics.add_time("t", 3, None, "s", metric_type=MetricTypes.HISTOGRAM)
    metrics.add_size("z", 4, unit="GB")
    metrics.add_percent("p", 5, 7)
    metrics.add_metric("m", 6, "widgets", dimensions=[Dimension("D", "x")], metric_type=MetricTypes.GAUGE)
    assert [(m["name"], m["value"], m["unit"], m["type"], m["request_ids"]) for m in sent] == [
        ("c", 2.0, "Count", "COUNTER", ["b"]),
        ("t", 3.0, "Seconds", "HISTOGRAM", ["a", "b"]),
        ("z", 4.0, "Gigabytes", "GAUGE", ["a", "b"]),
        ("p", 5.0, "Percent", "GAUGE", []),
        ("m", 6.0, "widgets", "GAUGE", ["a", "b"]),
    ]
    assert list(sent[-1]["dimensions"].items()) == [("D", "x"), ("ModelName", "net"), ("Level", "Model")]


def test_errors_have_a_level_of_their_own(metrics, sent):
    metrics.add_error("e", 1)
    assert (sent[0]["dimensions"], sent[0]["unit"], sent[0]["type"]) == ({"Level": "Error"}, "unit", "COUNTER")


def test_declared_metrics(metrics, sent):
    metric = metrics.add_metric_to_cache("d", "ms", ["A"], MetricTypes.GAUGE)
    metric.add_or_update(1.5, ["x"], "id")
    metrics.get_metric("d", MetricTypes.GAUGE).add_or_update(2, ["y"])
    assert [(m["value"], m["dimensions"], m["request_ids"]) for m in sent] == [
        (1.5, {"A": "x"}, ["id"]),
        (2.0, {"A": "y"}, []),
    ]
    with pytest.raises(ValueError, match="dimensions"):
        metric.add_or_update(1, [])
    with pytest.raises(MetricsCacheKeyError, match="counter named 'd'"):
        metrics.get_metric("d")
    with pytest.raises(MetricsCachePyTypeError):
        metrics.get_metric(5)


def test_negative_counts_are_dropped_and_wrong_units_refused(metrics, sent, caplog):
    metrics.add_counter("c", -1)
    assert not sent and "cannot be updated by -1" in caplog.text
    with pytest.raises(ValueError, match="'min'; expected one of ms, s"):
        metrics.add_time("t", 1, unit="min")
    with pytest.raises(ValueError, match="'TB'"):
        metrics.add_size("t", 1, unit="TB")


def test_yaml(tmp_path, sent):
    path = tmp_path / "metrics.yaml"
    path.write_text("model_metrics:\n  counter:\n    - {name: n, unit: Count, dimensions: [A]}\n  gauge:\n")
    cache = MetricsCacheYamlImpl(str(path), "net")
    cache.initialize_cache()
    cache.get_metric("n").add_or_update(1, ["x"])
    assert sent[0]["dimensions"] == {"A": "x"}
    for text in ("ts_metrics: {}", "model_metrics:\n  counter: [{name: n}]"):
        path.write_text(text)
        with pytest.raises(MetricsCacheTypeError, match=r"metrics\.yaml"):
            MetricsCacheYamlImpl(str(path)).initialize_cache()


def test_legacy_names(sent):
    MetricsStore({0: "r"}, "old").add_counter("c", 1)
    metric = Metric("x", 1, "ms", [Dimension("A", "b")], "r", "counter")
    metric.update(2)
    emit_metrics([metric])
    assert [m["value"] for m in sent] == [1.0, 3.0]
    assert str(metric) == "x.Milliseconds:3.0|#A:b"


def test_without_a_server_metrics_are_printed(capsys):
    sink._print(Metric("x", 1, "ms", [Dimension("A", "b")], "r").to_dict())
    assert capsys.readouterr().out.startswith("[METRICS]x.Milliseconds:1.0|#A:b|#type:COUNTER|#timestamp:")


def test_process_memory():
    import os

    (line,) = check_process_mem_usage(f"{os.getpid()}\n")
    pid, size = line.split(":")
    assert (int(pid), int(size) > 1 << 20) == (os.getpid(), True)
