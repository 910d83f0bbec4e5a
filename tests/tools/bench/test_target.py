"""What a benchmark reads of a server: configuration, counters, reasons."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jitney.core.model_config import Batching
from jitney.core.tensor import Tensor
from jitney.tools.bench.target import Counters, Target, TargetError, infer_request, parse_model, parse_reasons


def test_a_configuration_is_read() -> None:
    model = parse_model(
        "m",
        {
            "max_batch_size": 16,
            "dynamic_batching": {"max_queue_delay_microseconds": "500", "preferred_batch_size": [4, 8]},
            "instance_group": [{"count": 2, "gpus": [0, 1]}, {"count": 1, "gpus": []}],
            "input": [{"name": "x", "data_type": "TYPE_STRING", "dims": ["-1", "3"]}],
        },
    )
    assert model.batching == Batching(enabled=True, max_queue_delay_us=500, preferred_batch_size=(4, 8))
    assert (model.max_rows, model.workers) == (16, 5)
    assert (model.inputs[0].datatype, model.inputs[0].dims) == ("BYTES", (-1, 3))


def test_a_preferred_size_that_is_the_largest_says_nothing() -> None:
    document = {"max_batch_size": 8, "dynamic_batching": {"preferred_batch_size": [8]}, "instance_group": [{"count": 1}]}
    assert parse_model("m", document).batching == Batching(enabled=True)


def test_without_a_scheduler_nothing_is_batched_and_an_archive_does_not_say() -> None:
    assert parse_model("m", {"max_batch_size": 8, "instance_group": [{"count": 1}]}).batching == Batching()
    archive = parse_model("m", {"name": "m", "backend": "handler", "input": [], "output": [], "max_batch_size": 4})
    assert archive.batching is None
    assert (archive.max_rows, archive.workers, archive.inputs) == (4, 1, ())


def test_counters_are_subtracted() -> None:
    before = Counters(10, 100, 40, 50, {1: (5, 20), 2: (1, 30)}, {"idle": 5, "full": 1})
    after = Counters(30, 400, 90, 200, {1: (5, 20), 2: (4, 90), 8: (2, 60)}, {"idle": 8, "full": 1, "delay": 2})
    gained = after.since(before)
    assert (gained.requests, gained.total, gained.queue, gained.compute) == (20, 300, 50, 150)
    assert gained.batches == {2: (3, 60), 8: (2, 60)}
    assert gained.reasons == {"idle": 3, "delay": 2}


def test_reasons_are_summed_over_versions() -> None:
    text = """# TYPE jitney_batches_total counter
jitney_batches_total{model="m",version="1",reason="idle"} 3.0
jitney_batches_total{model="m",version="2",reason="idle"} 4.0
jitney_batches_total{model="m",version="2",reason="full"} 1.0
jitney_batches_total{model="other",version="1",reason="idle"} 9.0
"""
    assert parse_reasons(text, "m") == {"idle": 7, "full": 1}


def test_a_request_is_binary_both_ways() -> None:
    tensor = Tensor.from_numpy("x", np.arange(6, dtype=np.float32).reshape(1, 6))
    body, headers = infer_request([tensor])
    length = int(headers["Inference-Header-Content-Length"])
    head = json.loads(body[:length])
    assert head["inputs"][0]["shape"] == [1, 6]
    assert head["inputs"][0]["parameters"]["binary_data_size"] == len(body) - length == 24
    assert head["parameters"] == {"binary_data_output": True}


def test_addresses_that_cannot_be_are_refused() -> None:
    for url in ("localhost:8080", "https://x", "ftp://x"):
        with pytest.raises(TargetError, match="expected an address like"):
            Target(url, "m")


def test_nobody_listening_is_told() -> None:
    with pytest.raises(TargetError, match=r"model 'm' is not ready: cannot GET http://127.0.0.1:1/v2/models/m/ready"):
        Target("http://127.0.0.1:1", "m").describe()
