"""Requests leave memory as soon as they are answered: nothing of a client waits for the garbage collector."""

from __future__ import annotations

import gc
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from jitney.core import holding
from jitney.core.call import Call
from jitney.core.errors import JitneyError
from jitney.core.holding import Holdings
from jitney.tests.fakes.plane import doubling, loaded, rows
from jitney.tests.fakes.serving import serving, write_model

PATIENCE = 20.0
#: Bytes of a large answer: more than a connection's buffers take.
MANY = 16 << 20
LARGE_CONFIG = """
backend: "python"
input [ { name: "n" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_UINT8 dims: [ -1 ] } ]
"""
LARGE_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        counts = [int(pb_utils.get_input_tensor_by_name(request, "n").as_numpy()[0]) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.ones(count, np.uint8))]) for count in counts]
"""
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
    write_model(folder, "large", LARGE_CONFIG, LARGE_MODEL)
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


def _ask(count: int) -> bytes:
    """A request for an answer of so many bytes, in binary."""
    entry = {"name": "n", "shape": [1], "datatype": "INT64", "data": [count]}
    return json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()


def _held(expected: Callable[[int], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not expected(holding.process.held) and time.monotonic() < deadline:
        time.sleep(0.01)
    return expected(holding.process.held)


def test_large_answers_leave_nothing_in_the_threads_that_sent_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "process", Holdings())
    with serving(folder, "large") as served, served.listening() as address, urllib3.PoolManager() as http, uncollected():
        for _ in range(4):
            answer = http.request("POST", f"http://{address}/v2/models/large/infer", body=_ask(MANY))
            assert answer.status == 200 and len(answer.data) > MANY
        assert _held(lambda held: held == 0)


def test_answers_that_nobody_reads_are_bounded_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "process", Holdings(MANY + MANY // 2))
    with serving(folder, "large") as served, served.listening() as address, urllib3.PoolManager() as http:
        url, body = f"http://{address}/v2/models/large/infer", _ask(MANY)
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as silent:
            silent.sendall(
                b"POST /v2/models/large/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert _held(lambda held: MANY // 2 < held < MANY)  # its tensor has gone, and what the socket did not take waits
            refused = http.request("POST", url, body=body)
            assert refused.status == 503 and refused.headers["retry-after"] == "1"
            assert b"max_held_bytes" in refused.data
            assert http.request("POST", url, body=_ask(10)).status == 200
        assert _held(lambda held: held == 0)
        assert http.request("POST", url, body=body).status == 200
