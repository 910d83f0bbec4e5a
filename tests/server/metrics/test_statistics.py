"""Counters per model version."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from jitney.core.call import Call, Times
from jitney.core.errors import (
    BatchTooWide,
    Cancelled,
    Draining,
    InvalidTensor,
    JitneyError,
    LoadFailed,
    ModelFailed,
    QueueFull,
    WorkerDied,
)
from jitney.core.model_config import ModelConfig
from jitney.core.request import Request
from jitney.server.metrics.statistics import Statistics, failure_reason

CONFIG = ModelConfig(name="m", version="2", backend="python", max_batch_size=8)


@dataclass
class Batch:
    calls: list[Call]


def call(rows: int = 1, batch_rows: int = 0, error: JitneyError | None = None) -> Call:
    times = Times(arrived=100, dispatched=150, answered=400, compute_input=10, compute_infer=20, compute_output=30)
    return Call(Request(rows=rows), times=times, batch_rows=batch_rows, error=error)


def test_a_batch_counts_once_as_execution_and_by_rows_as_inference() -> None:
    statistics = Statistics(CONFIG)
    statistics.batch(Batch([call(2, 5), call(3, 5)]))
    statistics.batch(Batch([call(1, 1)]))
    now = statistics.snapshot()
    assert (now.model, now.version) == ("m", "2")
    assert (now.inference_count, now.execution_count) == (6, 2)
    assert (now.success.count, now.success.ns) == (3, 900)
    assert (now.queue.count, now.queue.ns) == (3, 150)
    assert (now.compute_input.ns, now.compute_infer.ns, now.compute_output.ns) == (30, 60, 90)
    assert {size: (batch.compute_infer.count, batch.compute_infer.ns) for size, batch in now.batches.items()} == {
        1: (1, 20),
        5: (1, 20),
    }
    assert now.last_inference > 1_600_000_000_000


def test_failures_count_executions_but_no_inferences() -> None:
    statistics = Statistics(CONFIG)
    statistics.batch(Batch([call(error=ModelFailed("boom")), call(error=WorkerDied("gone")), call(error=Cancelled("bye"))]))
    statistics.refused(QueueFull("full"))
    now = statistics.snapshot()
    assert (now.inference_count, now.execution_count) == (0, 1)
    assert (now.success.count, now.fail.count) == (0, 4)
    assert now.failures == {"REJECTED": 1, "CANCELED": 1, "BACKEND": 2, "OTHER": 0}


def test_an_error_that_the_model_reported_for_one_request_is_a_success() -> None:
    statistics = Statistics(CONFIG)
    statistics.batch(Batch([call(error=ModelFailed("negative", by_model=True))]))
    now = statistics.snapshot()
    assert (now.success.count, now.fail.count, now.inference_count) == (1, 0, 1)


def test_cache_hits_are_successes_without_execution() -> None:
    statistics = Statistics(CONFIG)
    statistics.cache_hit(call(), 5)
    statistics.cache_miss(7)
    now = statistics.snapshot()
    assert (now.success.count, now.queue.count, now.inference_count, now.execution_count) == (1, 1, 0, 0)
    assert (now.cache_hit.count, now.cache_hit.ns, now.cache_miss.ns) == (1, 5, 7)


def test_a_snapshot_does_not_change_any_more() -> None:
    statistics = Statistics(CONFIG)
    statistics.batch(Batch([call()]))
    before = statistics.snapshot()
    statistics.batch(Batch([call()]))
    statistics.left("full", 8)
    assert (before.success.count, before.batches[1].compute_infer.count, before.departures) == (1, 1, {})
    assert statistics.snapshot().departures == {"full": 1}
    statistics.batch(Batch([]))
    assert statistics.snapshot().execution_count == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Draining("x"), "REJECTED"),
        (InvalidTensor("x"), "REJECTED"),
        (BatchTooWide("m", 2, 1), "REJECTED"),
        (LoadFailed("x"), "OTHER"),
    ],
)
def test_reasons(error: JitneyError, reason: str) -> None:
    assert failure_reason(error) == reason


def test_threads_lose_no_counts() -> None:
    statistics = Statistics(CONFIG)

    def record() -> None:
        for _ in range(500):
            statistics.batch(Batch([call(2, 2)]))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = statistics.snapshot()
    assert (now.execution_count, now.inference_count, now.batches[2].compute_input.count) == (2000, 4000, 2000)
