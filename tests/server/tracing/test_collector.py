"""The queue of traces, with a sink that does as it is told."""

from __future__ import annotations

import importlib.util
import threading
import time

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.settings.trace import TraceConfig
from jitney.server.tracing.collector import Collector, collector_of, limit
from jitney.server.tracing.otlp import endpoint
from jitney.server.tracing.record import Front, TraceRecord
from jitney.server.tracing.settings import TraceSettings

CONFIG = TraceConfig("opentelemetry", ("TIMESTAMPS",), rate=1, bsp_max_queue_size=3, bsp_schedule_delay=1)


class Sink:
    def __init__(self) -> None:
        self.records: list[TraceRecord] = []
        self.held, self.writing = threading.Event(), threading.Event()
        self.interrupted = self.closed = False

    def write(self, records: list[TraceRecord]) -> str:
        self.writing.set()
        self.held.wait(20)
        self.records += records
        return ""

    def interrupt(self) -> None:
        self.interrupted = True
        self.held.set()

    def close(self) -> None:
        self.closed = True


def record(ended_ago_s: float = 1.0) -> TraceRecord:
    now = time.monotonic_ns()
    return TraceRecord(Front("http", "POST", "/", "", "200", now, now - int(ended_ago_s * 1e9)), chosen=True)


def outcomes(collector: Collector) -> dict[str, float]:
    [family] = collector.families()
    return {sample.labels["outcome"]: sample.value for sample in family.samples}


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    sink = Sink()
    collector = Collector(TraceSettings(CONFIG), sink)
    collector.put(record())
    assert sink.writing.wait(20)
    for _ in range(5):
        collector.put(record())
    sink.held.set()
    collector.close(20)
    assert (outcomes(collector), len(sink.records), sink.closed) == ({"written": 4, "dropped": 2, "failed": 0}, 4, True)
    collector.put(record())
    assert outcomes(collector)["dropped"] == 3


def test_what_has_just_ended_waits_for_others_of_its_batch() -> None:
    sink = Sink()
    sink.held.set()
    collector = Collector(TraceSettings(CONFIG), sink)
    began = time.monotonic()
    collector.put(record(0.0))
    assert sink.writing.wait(20)
    assert time.monotonic() - began >= 0.2
    collector.close(20)


def test_an_end_that_takes_too_long_is_cut_short() -> None:
    sink = Sink()
    collector = Collector(TraceSettings(CONFIG), sink)
    collector.put(record())
    assert sink.writing.wait(20)
    collector.close(0.01)
    assert sink.interrupted
    assert sink.closed


def test_limits_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit(CONFIG, "bsp_max_queue_size") == 3
    assert limit(CONFIG, "bsp_max_export_batch_size") == 512
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "7")
    assert limit(CONFIG, "bsp_max_export_batch_size") == 7
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many")
    with pytest.raises(InvalidConfig, match="OTEL_BSP_MAX_EXPORT_BATCH_SIZE is 'many', expected a number above 0"):
        limit(CONFIG, "bsp_max_export_batch_size")


def test_who_has_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    assert collector_of(TraceSettings()) is None
    assert collector_of(TraceSettings(TraceConfig(file="/tmp/trace.json"))) is not None
    assert collector_of(TraceSettings(CONFIG)) is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InvalidConfig, match=r"mode=opentelemetry needs OpenTelemetry's exporter: pip install 'jitney\[otel\]'"
    ):
        collector_of(TraceSettings(CONFIG))


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("", None),
        ("there:4318", "http://there:4318/v1/traces"),
        ("https://there/", "https://there/v1/traces"),
        ("there:4318/v1/traces", "http://there:4318/v1/traces"),
        ("http://there/other/path", "http://there/other/path"),
    ],
)
def test_addresses_of_a_collector(url: str, whole: str | None) -> None:
    assert endpoint(url) == whole
