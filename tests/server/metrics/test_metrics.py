"""What is counted and how it is written down, read back by prometheus_client's own parser."""

import collections
import dataclasses
import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jitney.core.call import Call
from jitney.core.errors import InvalidConfig, ModelFailed, QueueFull
from jitney.core.histogram import Histogram
from jitney.core.model_config import ModelConfig
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.metrics import Metrics
from jitney.server.metrics.models import STATES, Traced
from jitney.server.metrics.statistics import Statistics
from jitney.server.metrics.system import SystemFigures
from jitney.server.metrics.text import Exemplar, Family, render
from jitney.server.serving.response_cache import ResponseCache
from jitney.server.workers.status import WorkerStatus
from jitney.server.workers.worker_state import WorkerState
from jitney.tests.fakes.metrics import openmetrics

MILLISECOND = 1_000_000


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(text: bytes, name: str, **labels: str) -> float:
    """One sample's value; the parser gives counters a suffix that TorchServe's and Triton's do not have."""
    found, key = samples(text), tuple(sorted(labels.items()))
    return found[name, key] if (name, key) in found else found[f"{name}_total", key]


class Version:
    """A served version with real statistics."""

    def __init__(self, **tags: str) -> None:
        self.config = ModelConfig(name="m", version="3", backend="onnxruntime", metric_tags=tags)
        self.statistics, self.ready = Statistics(self.config), True
        self.on_demand = False

    def queued(self) -> int:
        return 7

    def queued_rows(self) -> int:
        return 11

    def wanted_workers(self) -> int:
        return 3

    def workers(self) -> list[Any]:
        status = partial(WorkerStatus, pid=1, started=0.0, memory_bytes=0, gpu=None, error="")
        states = ((WorkerState.READY, 0), (WorkerState.BUSY, 2), (WorkerState.BUSY, 0))
        return [status(id=i, name=f"m_{i}", state=state, restarts=n) for i, (state, n) in enumerate(states)]

    def run(self, rows: int, queued_ms: float = 1, compute_ms: float = 2, error: ModelFailed | None = None) -> None:
        call = Call(Request(rows=rows))
        call.times.dispatched = call.times.arrived + int(queued_ms * MILLISECOND)
        call.times.compute_infer = int(compute_ms * MILLISECOND)
        call.batch_rows = rows
        call.fail(error) if error else call.answer(Response())
        self.statistics.left("full", rows)
        self.statistics.batch(Executed([call]))


class Executed:
    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls


# -- histogram and text ----------------------------------------------------------------------------------------------------


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram((1, 2))
    for number in (0, 1, 1.5, 2, 3, 100):
        histogram.observe(number)
    assert list(histogram.cumulative()) == [(1, 2), (2, 4), (float("inf"), 6)] and histogram.sum == 107.5
    copy = histogram.copy()
    histogram.observe(1, times=3)
    assert sum(copy.counts) == 6 and sum(histogram.counts) == 9
    with pytest.raises(ValueError, match="ascend"):
        Histogram((2, 1))


def test_text_is_escaped_and_readable() -> None:
    family = Family("f", "gauge", "help\nwith \\")
    family.add({"a": 'x"y\\z\nw'}, float("nan"))
    family.add({}, float("inf"))
    text = render([family])
    assert text == b'# HELP f help\\nwith \\\\\n# TYPE f gauge\nf{a="x\\"y\\\\z\\nw"} NaN\nf +Inf\n'
    assert ("f", (("a", 'x"y\\z\nw'),)) in samples(text)


def test_names_pick_samples() -> None:
    family = Family("f", "histogram", "")
    family.add_histogram({}, Histogram((1,)))
    assert samples(render([family], ["f_count"])) == {("f_count", ()): 0.0}
    assert render([family], ["f"]) == b"\n" or render([family], ["f"]) == b""


# -- models ----------------------------------------------------------------------------------------------------------------


def test_jitney_s_own_families() -> None:
    version = Version()
    version.run(1, queued_ms=0.5, compute_ms=3)
    version.run(8, queued_ms=20, compute_ms=3)
    version.run(2, error=ModelFailed("x"))
    version.statistics.refused(QueueFull("full"))
    text = Metrics(lambda: [version]).scrape()
    of = {"model": "m", "version": "3"}
    assert value(text, "jitney_requests_total", outcome="success", **of) == 2
    assert value(text, "jitney_requests_total", outcome="backend", **of) == 1
    assert value(text, "jitney_requests_total", outcome="rejected", **of) == 1
    assert value(text, "jitney_queue_depth", **of) == 7 and value(text, "jitney_model_ready", **of) == 1
    assert value(text, "jitney_batches_total", reason="full", **of) == 3
    assert value(text, "jitney_batch_size_rows_count", **of) == 3 and value(text, "jitney_batch_size_rows_sum", **of) == 11
    assert value(text, "jitney_batch_size_rows_bucket", le="4.0", **of) == 2
    assert value(text, "jitney_queue_seconds_count", **of) == 2
    assert value(text, "jitney_queue_seconds_sum", **of) == pytest.approx(0.0205)
    assert value(text, "jitney_queue_seconds_bucket", le="0.001", **of) == 1
    assert value(text, "jitney_compute_seconds_bucket", le="0.0025", **of) == 1
    assert value(text, "jitney_compute_seconds_count", **of) == 3


def test_triton_s_counters() -> None:
    version = Version(team="a")
    version.run(4, queued_ms=5, compute_ms=2)
    version.run(2, error=ModelFailed("x"))
    text = Metrics(lambda: [version]).scrape()
    of = {"model": "m", "version": "3", "team": "a"}
    assert value(text, "nv_inference_request_success", **of) == 1 and value(text, "nv_inference_count", **of) == 4
    assert value(text, "nv_inference_exec_count", **of) == 2
    assert value(text, "nv_inference_queue_duration_us", **of) == 5000
    assert value(text, "nv_inference_compute_infer_duration_us", **of) == 2000
    failures = {reason: value(text, "nv_inference_request_failure", reason=reason, **of) for reason in REASONS}
    assert failures == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 1, "OTHER": 0}
    assert value(text, "nv_inference_pending_request_count", **of) == 7
    assert b"nv_cache" not in text


def test_cached_models_have_cache_counters_from_the_start() -> None:
    version, of = Version(), {"model": "m", "version": "3"}
    version.config = dataclasses.replace(version.config, response_cache=True)
    assert value(Metrics(lambda: [version]).scrape(), "nv_cache_num_hits_per_model", **of) == 0
    version.statistics.cache_miss(5000)
    assert value(Metrics(lambda: [version]).scrape(), "nv_cache_num_misses_per_model", **of) == 1


def test_triton_s_families_of_the_server() -> None:
    cache = ResponseCache(4096)
    cache.put(b"a", Response([Tensor("y", "UINT8", (512,), bytes(512))]))
    for key in (b"a", b"a", b"b"):
        cache.get(key)
    text = Metrics(cache=cache).scrape()
    found = {name: number for (name, labels), number in samples(text).items() if name.startswith("nv_") and not labels}
    assert 0 <= found["nv_cpu_utilization"] <= 1
    assert 0 < found["nv_cpu_memory_used_bytes"] < found["nv_cpu_memory_total_bytes"]
    assert found["nv_pinned_memory_pool_total_bytes"] == found["nv_pinned_memory_pool_used_bytes"] == 0
    assert (found["nv_cache_num_hits"], found["nv_cache_num_misses"], found["nv_cache_num_lookups"]) == (2, 1, 3)
    assert (found["nv_cache_num_entries"], found["nv_cache_util"], found["nv_cache_num_evictions"]) == (1, 0.25, 0)
    assert found["nv_cache_lookup_duration"] >= 0 and found["nv_cache_insertion_duration"] >= 0
    assert cache.lookup_ns > 0 and cache.insertion_ns > 0
    without = Metrics(system=False).scrape()
    assert b"nv_cache" not in without and b"nv_cpu" not in without


def test_every_family_that_ends_in_total_is_a_counter() -> None:
    lines = Metrics(lambda: [Version()]).scrape().decode().splitlines()
    kinds = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    assert kinds["process_cpu_seconds_total"] == "counter" and kinds["process_open_fds"] == "gauge"
    assert {kind for name, kind in kinds.items() if name.endswith("_total")} == {"counter"}


REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


# -- TorchServe ------------------------------------------------------------------------------------------------------------


def handler_metric(name: str, number: float, kind: str = "COUNTER") -> dict[str, Any]:
    dimensions = {"ModelName": "m", "Level": "Model"}
    return {"name": name, "value": number, "unit": "ms", "type": kind, "dimensions": dimensions, "request_ids": ["a", "b"]}


def test_every_declared_metric_is_named_before_it_has_a_value() -> None:
    text = Metrics(system=False).scrape().decode()
    for name, unit in (("Requests5XX", "Count"), ("GPUUtilization", "Percent"), ("HandlerTime", "ms")):
        assert f"# HELP {name} Torchserve prometheus " in text and f"with unit: {unit}" in text
        assert f"\n{name}{{" not in text


def test_the_machine_s_figures() -> None:
    metrics = Metrics()
    text, host = metrics.scrape(), {"Level": "Host", "Hostname": metrics.torchserve.hostname}
    assert value(text, "MemoryUsed", **host) > 0 and value(text, "DiskAvailable", **host) > 0
    assert 0 <= value(text, "CPUUtilization", **host) <= 100
    assert value(text, "process_open_fds") > 0


def test_cpu_utilization_is_the_same_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes come from many threads; psutil's own percentage would be 0 in each one's first."""
    Times = collections.namedtuple("Times", "user nice system idle iowait guest")
    given = iter([Times(100, 0, 50, 800, 50, 10), Times(106, 0, 52, 810, 52, 12)])
    monkeypatch.setattr("jitney.server.metrics.system.psutil.cpu_times", lambda: next(given))
    figures, seen = SystemFigures(), list[float]()
    threads = [threading.Thread(target=lambda: seen.append(figures.utilization())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [0.4, 0.4]  # 8 of 20 seconds: the guests' are among the users'


def test_handlers_metrics_need_a_declaration_or_auto_detection() -> None:
    of = {"ModelName": "m", "Level": "Model"}
    for auto_detect in (False, True):
        metrics = Metrics(auto_detect=auto_detect)
        metrics.event("m", "1", handler_metric("HandlerTime", 2.5, "GAUGE"))
        metrics.event("m", "1", handler_metric("mine", 2))
        metrics.event("m", "1", handler_metric("mine", 3))
        metrics.event("m", "1", handler_metric("spread", 0.3, "HISTOGRAM"))
        text, labels = metrics.scrape(), {**of, "Hostname": metrics.torchserve.hostname}
        assert value(text, "HandlerTime", **labels) == 2.5
        assert (b"# TYPE mine counter" in text) is auto_detect
    assert value(text, "mine", **labels) == 5 and value(text, "spread_bucket", le="0.5", **labels) == 1


@pytest.mark.parametrize("mode", ["prometheus", "log"])
def test_dimensions_that_a_handler_names_itself_are_exported(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(mode=mode, system=False, auto_detect=True)
    own = {"ModelName": "other", "Level": "Stage", "Hostname": "elsewhere", "Step": "1"}
    with caplog.at_level(logging.INFO):
        metrics.event("m", "1", {**handler_metric("mine", 2), "dimensions": own})
        metrics.event("m", "1", {**handler_metric("mine", 2), "dimensions": {**own, "More": "1"}})
        metrics.event(
            "m", "1", {**handler_metric("HandlerTime", 2, "GAUGE"), "dimensions": {"Level": "x", "ModelName": "y"}}
        )
    assert "metric 'mine' was not updated: its dimensions are" in caplog.text
    host = metrics.torchserve.hostname
    if mode == "prometheus":
        assert value(metrics.scrape(), "mine", **own) == 2
        assert value(metrics.scrape(), "HandlerTime", Level="x", ModelName="y", Hostname=host) == 2
    else:
        lines = [record.getMessage() for record in caplog.records if record.name == "jitney.model_metrics"]
        assert lines[0].startswith(f"mine.ms:2.0|#ModelName:other,Level:Stage,Hostname:elsewhere,Step:1|#hostname:{host},")
        assert lines[1].startswith("HandlerTime.ms:2.0|#ModelName:y,Level:x|#hostname:")


def test_names_that_prometheus_does_not_take_are_not_declared(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(system=False, auto_detect=True)
    metrics.event("m", "1", handler_metric("my metric", 2))
    metrics.event("m", "1", {**handler_metric("mine", 2), "dimensions": {"a-b": "1"}})
    assert b"mine" not in metrics.scrape() and b"my metric" not in metrics.scrape()
    assert caplog.text.count("cannot be exported") == 2


def test_metrics_yaml_replaces_the_declarations(tmp_path: Path) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(
        'dimensions:\n  - &level "Level"\nts_metrics:\n  counter:\n    - name: Requests2XX\n      unit: Count\n'
        '      dimensions: [*level, "Hostname"]\nmodel_metrics:\n  histogram:\n    - name: spread\n      unit: ms\n'
        '      dimensions: ["ModelName", *level]\n'
    )
    metrics = Metrics(config=str(path), system=False)
    metrics.torchserve.responded(200)
    metrics.torchserve.responded(404)
    metrics.event("m", "1", handler_metric("spread", 0.3, "HISTOGRAM"))
    text = metrics.scrape()
    assert b"Requests4XX" not in text and b"Requests2XX{" in text
    assert value(text, "spread_count", ModelName="m", Level="Model", Hostname=metrics.torchserve.hostname) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ts_metrics: [", "metrics.yaml"),
        ("ts_metrics: {meter: [{name: a}]}", "ts_metrics.meter: expected counter, gauge or histogram"),
        ("model_metrics: {gauge: [{unit: a}]}", "model_metrics.gauge: expected entries with name"),
    ],
)
def test_a_bad_metrics_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=message.replace(".", r"\.")):
        Metrics(config=str(path))
    with pytest.raises(InvalidConfig, match="nowhere"):
        Metrics(config=str(tmp_path / "nowhere"))


def test_log_mode_writes_torchserve_s_lines(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(mode="log", system=False)
    host = metrics.torchserve.hostname
    with caplog.at_level(logging.INFO):
        metrics.torchserve.responded(500)
        metrics.event("m", "1", handler_metric("HandlerTime", 2.5, "GAUGE"))
    first, second = [(record.name, record.getMessage().rsplit(":", 1)[0]) for record in caplog.records]
    assert first == ("jitney.metrics", f"Requests5XX.Count:1.0|#Level:Host|#hostname:{host},timestamp")
    text = f"HandlerTime.ms:2.5|#ModelName:m,Level:Model|#hostname:{host},requestID:a,b,timestamp"
    assert second == ("jitney.model_metrics", text)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        metrics.event("m", "1", handler_metric("HandlerTime", 2.5, "GAUGE") | {"request_ids": []})
    assert f"#hostname:{host},requestID:null,timestamp" in caplog.text
    assert metrics.scrape() == b""


def test_log_mode_tells_once_how_long_a_worker_took_to_load(caplog: pytest.LogCaptureFixture) -> None:
    class Loading(Version):
        now: list[Any]

        def workers(self) -> list[Any]:
            return self.now

    version, made = Loading(), partial(WorkerStatus, pid=1, memory_bytes=0, gpu=None, restarts=0, error="")
    metrics = Metrics(mode="log", system=False)
    status = partial(made, 9000, "m_0", state=WorkerState.READY)
    starting = made(9001, "m_1", state=WorkerState.STARTING, started=6.0)
    loads = [(5.0, 1.5), (5.0, 1.5), (8.0, 2.5)]  # the same process is told of once, the one that replaces it again
    with caplog.at_level(logging.INFO):
        for started, seconds in loads:
            version.now = [status(started=started, load_seconds=seconds), starting]
            metrics.workers_changed(version)
    host = metrics.torchserve.hostname
    expected = [
        f"WorkerLoadTime.Milliseconds:{took}|#WorkerName:W-9000-m_3,Level:Host|#hostname:{host},timestamp"
        for took in ("1500.0", "2500.0")
    ]
    assert [record.getMessage().rsplit(":", 1)[0] for record in caplog.records] == expected
    scraped = Metrics(system=False)
    scraped.workers_changed(version)
    assert b"WorkerLoadTime{" not in scraped.scrape()


def test_batches_of_the_fast_path_have_a_handler_s_metrics(caplog: pytest.LogCaptureFixture) -> None:
    scraped, logged = Metrics(system=False), Metrics(mode="log", system=False)
    with caplog.at_level(logging.INFO):
        for metrics in (scraped, logged):
            metrics.torchserve.executed("m", (1 * MILLISECOND, 2 * MILLISECOND, 500_000), ["a", "b"])
    for name in ("HandlerTime", "PredictionTime"):
        assert value(scraped.scrape(), name, ModelName="m", Level="Model", Hostname=scraped.torchserve.hostname) == 3.5
        assert f"{name}.ms:3.5|#ModelName:m,Level:Model|#hostname:" in caplog.text
    assert "requestID:a,b," in caplog.text


def test_log_mode_reads_the_machine_from_time_to_time(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(mode="log", interval=3600)
    with caplog.at_level(logging.INFO):
        metrics.start()
        for _ in range(1000):
            if "DiskUtilization" in caplog.text:
                break
            threading.Event().wait(0.005)
        metrics.close()
    assert "MemoryUsed.Megabytes:" in caplog.text and "DiskUtilization.Percent:" in caplog.text


# -- Python models' own ------------------------------------------------------------------------------------------------------


def python_metric(verb: str, number: float, kind: str = "counter", **values: Any) -> dict[str, Any]:
    plain = {"source": "python", "name": "own", "description": "mine", "kind": kind, "labels": {"a": "b"}, "buckets": []}
    return {**plain, "verb": verb, "value": number, **values}


def test_python_models_families_sum_up_over_instances() -> None:
    metrics = Metrics(system=False)
    for _ in range(3):
        metrics.event("m", "1", python_metric("increment", 2))
    metrics.event("m", "1", python_metric("set", 5, "gauge", name="level"))
    metrics.event("m", "2", python_metric("observe", 5, "histogram", name="spread", buckets=[10, 1]))
    metrics.event("m", "1", python_metric("increment", 1, "gauge"))  # was declared as a counter
    metrics.event("m", "1", python_metric("increment", 1, name="bad name"))
    text = metrics.scrape()
    assert value(text, "own", a="b") == 6 and value(text, "level", a="b") == 5
    assert value(text, "spread_bucket", a="b", le="10.0") == 1 and value(text, "spread_bucket", a="b", le="1.0") == 0
    assert b"bad name" not in text


def test_a_series_is_shown_before_it_counted_anything() -> None:
    metrics = Metrics(system=False)
    metrics.event("m", "1", python_metric("increment", 2))
    for _ in range(2):
        metrics.event("m", "1", python_metric("declare", 0))
        metrics.event("m", "1", python_metric("declare", 0, "gauge", name="level"))
        metrics.event("m", "2", python_metric("declare", 0, "histogram", name="spread", buckets=[1, 10]))
    text = metrics.scrape()
    assert value(text, "own", a="b") == 2 and value(text, "level", a="b") == 0
    assert value(text, "spread_count", a="b") == 0 == value(text, "spread_bucket", a="b", le="10.0")


def test_a_models_metric_joins_the_servers_family_of_its_name(caplog: pytest.LogCaptureFixture) -> None:
    plain = {"name": "nv_cpu_memory_used_bytes", "labels": {"a": "b"}}
    metrics = Metrics()
    metrics.event("m", "1", python_metric("set", 5, "gauge", **plain))
    metrics.event("m", "1", python_metric("set", 6, "gauge", **{**plain, "labels": {}}))
    metrics.event("m", "1", python_metric("increment", 1, name="nv_cpu_utilization"))
    for _ in range(2):
        text = metrics.scrape()
        assert text.count(b"# TYPE nv_cpu_memory_used_bytes ") == 1 == text.count(b"# TYPE nv_cpu_utilization ")
        assert value(text, "nv_cpu_memory_used_bytes", a="b") == 5 and value(text, "nv_cpu_memory_used_bytes") > 6
        assert b"nv_cpu_utilization{" not in text
    told = [isinstance(record.args, tuple) and record.args[1] for record in caplog.records]
    assert told == [plain["name"], "nv_cpu_utilization"]


def test_a_metric_of_another_kind_is_said_to_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(system=False)
    metrics.event("m", "1", python_metric("increment", 2))
    for _ in range(2):
        metrics.event("m", "1", python_metric("set", 1, "gauge"))
    assert value(metrics.scrape(), "own", a="b") == 2
    assert len(caplog.records) == 1 and "'own' is a counter already" in caplog.text


def test_labels_without_end_stop_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitney.server.metrics.custom.MAX_SERIES", 3)
    metrics = Metrics(system=False)
    for number in range(10):
        metrics.event("m", "1", python_metric("increment", 1, labels={"a": str(number)}))
    metrics.event("m", "1", python_metric("increment", 1, labels={"a": "0"}))
    text = metrics.scrape()
    assert text.count(b"\nown{") == 3 and value(text, "own", a="0") == 2


def test_a_version_that_was_never_asked_shows_no_histograms_where_it_loads_on_demand() -> None:
    """A thousand of them would be five megabytes a scrape."""
    version = Version()
    version.on_demand = True
    before = Metrics(lambda: [version]).scrape()
    assert value(before, "jitney_model_ready", model="m", version="3") == 1
    assert value(before, "nv_inference_count", model="m", version="3") == 0
    assert b"_bucket{" not in before
    version.run(4)
    after = Metrics(lambda: [version]).scrape()
    assert value(after, "jitney_batch_size_rows_count", model="m", version="3") == 1
    version.on_demand = False
    assert b"_bucket{" in Metrics(lambda: [Version()]).scrape(), "one that is loaded at the start shows them at once"


# -- what waits, workers, OpenMetrics --------------------------------------------------------------------------------------


def test_what_waits_and_the_workers_are_shown() -> None:
    text = Metrics(lambda: [Version()]).scrape()
    assert value(text, "jitney_queue_depth", model="m", version="3") == 7
    assert value(text, "jitney_queue_rows", model="m", version="3") == 11
    assert value(text, "jitney_workers_wanted", model="m", version="3") == 3
    assert value(text, "jitney_worker_restarts_total", model="m", version="3") == 2
    found = {state: value(text, "jitney_workers", model="m", version="3", state=state) for state in STATES}
    assert found == {"starting": 0, "ready": 1, "busy": 2, "stopping": 0, "backoff": 0, "failed": 0}


def test_the_states_are_those_that_workers_have() -> None:
    assert {state.value.lower() for state in WorkerState} == set(STATES)


def test_openmetrics_with_the_traces_of_slow_requests() -> None:
    version = Version()
    version.run(1, queued_ms=30)
    version.run(1, queued_ms=2)
    metrics = Metrics(lambda: [version])
    metrics.torchserve.requested("m", "3")
    traces = [("a" * 32, 0.03), ("b" * 32, 0.031), ("c" * 32, 0.002)]
    latest = [Traced(Exemplar(trace, seconds, 1.5), Exemplar(trace, 0.002, 1.5)) for trace, seconds in traces]
    metrics.exemplars = lambda: {("m", "3"): latest}
    text = metrics.scrape(openmetrics=True).decode()
    families = {family.name: family for family in openmetrics(text)}
    assert families["jitney_requests"].type == "counter"
    assert (families["nv_inference_count"].type, families["ts_inference_requests"].type) == ("unknown", "counter")
    shown = {s.labels["le"]: s.exemplar for s in families["jitney_queue_seconds"].samples if s.exemplar is not None}
    assert {bound: found.labels["trace_id"][0] for bound, found in shown.items()} == {"0.0025": "c", "0.05": "b"}
    assert (shown["0.05"].value, float(shown["0.05"].timestamp)) == (0.031, 1.5)
    assert b"trace_id" not in metrics.scrape()


def test_families_are_left_out_by_name_in_openmetrics_too() -> None:
    text = Metrics(lambda: [Version()]).scrape(["jitney_queue_depth"], openmetrics=True).decode()
    assert [family.name for family in openmetrics(text)] == ["jitney_queue_depth"]
