"""Requests leave memory as soon as they are answered: nothing of a client waits for the garbage collector."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from jitney.server.call import Call
from jitney.server.errors import JitneyError
from jitney.tests.fakes.plane import doubling, loaded, rows
from jitney.tests.fakes.serving import serving

PATIENCE = 20.0
ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [ {
  model_name: "ordered" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" }
} ] }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    doubling(folder, "plain", "dynamic_batching { }")
    doubling(folder, "ordered", "dynamic_batching { preserve_ordering: true }")
    doubling(folder, "slow", "dynamic_batching { }", seconds=0.2)
    (folder / "graph" / "1").mkdir(parents=True)
    (folder / "graph" / "config.pbtxt").write_text(ENSEMBLE)
    return folder


@contextmanager
def uncollected() -> Iterator[list[Call]]:
    """No garbage collection meanwhile; yields the calls that other tests have left."""
    gc.collect()
    gc.disable()
    try:
        yield _calls()
    finally:
        gc.enable()


def _calls() -> list[Call]:
    return [found for found in gc.get_objects() if type(found) is Call]


def left(before: list[Call]) -> int:
    """Calls in memory that were not there before, when the threads that answered them have let go."""
    deadline = time.monotonic() + 5
    while (count := len(_calls()) - len(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return count


@pytest.mark.parametrize("model", ["plain", "ordered", "graph"])
def test_an_answered_call_leaves_at_once(folder: Path, model: str) -> None:
    with loaded(folder) as plane, uncollected() as before:
        for _ in range(3):
            plane.infer(model, None, rows(1.0)).result(PATIENCE)
        assert left(before) == 0


def test_a_cancelled_call_leaves_at_once(folder: Path) -> None:
    with loaded(folder) as plane, uncollected() as before:
        running, waiting = plane.infer("slow", None, rows(1.0)), plane.infer("slow", None, rows(2.0))
        waiting.cancel()
        running.result(PATIENCE)
        del running, waiting
        assert left(before) == 0


def test_a_refused_call_leaves_at_once(folder: Path) -> None:
    with loaded(folder) as plane, uncollected() as before:
        plane.registry.deployment("plain").close(PATIENCE)
        with pytest.raises(JitneyError):
            plane.infer("plain", None, rows(1.0))
        assert left(before) == 0


def test_a_request_over_http_leaves_at_once(folder: Path) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
    with (
        serving(folder, "plain") as served,
        served.listening() as address,
        urllib3.PoolManager() as http,
        uncollected() as before,
    ):
        for _ in range(5):
            assert http.request("POST", f"http://{address}/v2/models/plain/infer", body=body).status == 200
        assert left(before) == 0
