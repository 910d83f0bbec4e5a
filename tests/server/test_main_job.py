"""The main job as a user meets it: `jitney serve` as its own process, shipped models, HTTP, curl's requests and tritonclient."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.http as tritonclient
import urllib3

from jitney.tests.fakes.plane import doubling
from jitney.tools.bench.served import ServedProcess, serving, wait_until
from jitney.tools.dev import build_models, digits

ROOT = Path(build_models.__file__).resolve().parents[2]
DIGITS = ("digits_eager", "digits_torchscript", "digits_onnx")
PATIENCE = 30.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped digits models, a slow model, and one that cannot load."""
    folder = tmp_path_factory.mktemp("main") / "models"
    folder.mkdir()
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may get here at once
        assert build_models.main(["--repository", str(ROOT / "model_repository"), "--models", ",".join(DIGITS)]) == 0
    for name in DIGITS:
        (folder / name).symlink_to(ROOT / "model_repository" / name)
    doubling(folder, "slow", "dynamic_batching { }", seconds=0.5)
    doubling(folder, "broken")
    (folder / "broken" / "1" / "model.py").write_text("raise RuntimeError('the weights are not here')")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServedProcess]:
    with serving(repository, properties="http_threads=8\nmax_waiting=8\nmax_request_size=1000000\n") as server:
        yield server


@pytest.fixture(scope="module")
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(maxsize=64, retries=False, timeout=PATIENCE) as pool:
        yield pool


def test_the_server_says_how_each_model_fared(server: ServedProcess) -> None:
    said = "\n".join(server.lines)
    for name in (*DIGITS, "slow"):
        assert f"{name} 1: ready after" in said
    assert "broken 1: FAILED" in said
    assert "the weights are not here" in said
    assert "Model server started." in server.lines


def test_every_held_out_digit_through_torchserves_route(server: ServedProcess, http: urllib3.PoolManager) -> None:
    images = digits.held_out()

    def right(item: tuple[bytes, int]) -> bool:
        reply = http.request("PUT", f"{server.inference}/predictions/digits_onnx", body=item[0])
        assert reply.status == 200, reply.data
        answer = json.loads(reply.data)
        assert len(answer) == 5
        assert list(answer.values()) == sorted(answer.values(), reverse=True)
        best: str = next(iter(answer))
        return best == str(item[1])

    with ThreadPoolExecutor(6) as clients:
        assert sum(clients.map(right, images)) / len(images) >= 0.97


def test_three_backends_agree_through_tritonclient(server: ServedProcess) -> None:
    client = tritonclient.InferenceServerClient(server.inference.removeprefix("http://"))
    pixels = np.random.default_rng(1).standard_normal((5, 1, 8, 8)).astype(np.float32)
    tensor = tritonclient.InferInput("image", [5, 1, 8, 8], "FP32")
    outputs = []
    for binary in (True, False):
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        outputs += [client.infer(model, [tensor]).as_numpy("logits") for model in DIGITS]
    client.close()
    assert outputs[0].shape == (5, 10)
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], atol=1e-4)


def test_metadata_statistics_descriptions_and_metrics_are_served(server: ServedProcess, http: urllib3.PoolManager) -> None:
    assert server.get_json("/v2")["name"] == "triton"
    assert server.get_json("/v2/models/digits_onnx")["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}
    ]
    assert server.get_json("/v2/models/digits_onnx/config")["max_batch_size"] == 32
    assert server.get_json("/v2/models/digits_onnx/stats")["model_stats"][0]["execution_count"] > 0
    assert {model["modelName"] for model in server.get_json("/models", server.management)["models"]} >= set(DIGITS)
    (described,) = server.get_json("/models/digits_onnx/1", server.management)
    assert described["batchSize"] == 32
    assert psutil.pid_exists(described["workers"][0]["pid"])
    metrics = http.request("GET", f"{server.metrics}/metrics").data.decode()
    for name in ("jitney_requests_total", "jitney_queue_seconds_bucket", "jitney_compute_seconds_bucket"):
        assert f'{name}{{model="digits_onnx",version="1"' in metrics
    assert "jitney_batch_size_rows_bucket" in metrics
    assert "jitney_queue_depth" in metrics


def test_health_tells_the_truth(server: ServedProcess, http: urllib3.PoolManager) -> None:
    status = {path: http.request("GET", server.inference + path).status for path in ("/ping", "/v2/health/live")}
    assert status == {"/ping": 200, "/v2/health/live": 200}
    assert http.request("GET", f"{server.inference}/v2/health/ready").status == 400, "a model that failed is not ready"
    assert http.request("GET", f"{server.inference}/v2/models/broken/ready").status == 400
    assert http.request("GET", f"{server.inference}/v2/models/slow/ready").status == 200


def infer(data: Any = None, **changes: Any) -> bytes:
    """An infer request to a digits model, right but for `changes` of its input."""
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": data if data is not None else [0.0] * 64}
    return json.dumps({"inputs": [tensor | changes]}).encode()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "culprit"),
    [
        ("/predictions/nothing", b"x", {}, 404, "nothing"),
        ("/predictions/digits_onnx/9", b"x", {}, 404, "9"),
        ("/predictions/digits_onnx", b"no image at all", {}, 400, "image"),
        ("/predictions/digits_onnx", digits.held_out()[0][0][:60], {}, 400, "image"),
        ("/predictions/slow", b"{broken", {"Content-Type": "application/json"}, 400, "JSON"),
        ("/predictions/slow", b"[" * 100_000, {"Content-Type": "application/json"}, 400, "JSON"),
        ("/v2/models/nothing/infer", infer(), {}, 404, "nothing"),
        ("/v2/models/digits_onnx/versions/9/infer", infer(), {}, 404, "9"),
        ("/v2/models/digits_onnx/infer", infer(name="picture"), {}, 400, "picture"),
        ("/v2/models/digits_onnx/infer", infer(datatype="INT32", data=[0] * 64), {}, 400, "INT32"),
        ("/v2/models/digits_onnx/infer", infer(shape=[1, 1, 9, 9], data=[0.0] * 81), {}, 400, "[1,1,9,9]"),
        ("/v2/models/digits_onnx/infer", infer(data=[0.0] * 63), {}, 400, "data"),
        ("/v2/models/digits_onnx/infer", infer(shape=[33, 1, 8, 8], data=[0.0] * 64 * 33), {}, 400, "32"),
        ("/v2/models/digits_onnx/infer", infer(shape=[-1, 1, 8, 8]), {}, 400, "shape"),
        ("/v2/models/digits_onnx/infer", infer(shape=[2**40, 2**40, 8, 8]), {}, 400, "image"),
        ("/v2/models/digits_onnx/infer", infer(datatype="INT64", data=[float("nan")] * 64), {}, 400, "image"),
        ("/v2/models/digits_onnx/infer", b'{"inputs": [', {}, 400, "JSON"),
        ("/v2/models/digits_onnx/infer", b'{"inputs": ' + b"[" * 100_000, {}, 400, "JSON"),
        ("/v2/models/digits_onnx/infer", b" " * 1_000_001, {}, 413, ""),
        ("/predictions/digits_onnx", b" " * 1_000_001, {}, 413, ""),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_refused_by_name_and_the_next_request_is_fine(
    server: ServedProcess,
    http: urllib3.PoolManager,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    culprit: str,
) -> None:
    reply = http.request("POST", server.inference + path, body=body, headers=headers)
    assert reply.status == status, reply.data
    assert culprit in reply.data.decode()
    assert http.request("POST", f"{server.inference}/v2/models/digits_onnx/infer", body=infer()).status == 200


def test_multipart_and_form_bodies_reach_the_model(server: ServedProcess, http: urllib3.PoolManager) -> None:
    image, label = digits.held_out()[0]
    reply = http.request("POST", f"{server.inference}/predictions/digits_eager", fields={"data": ("digit.png", image)})
    assert reply.status == 200
    assert next(iter(json.loads(reply.data))) == str(label)
    cut = b'--b\r\nContent-Disposition: form-data; name="data"; filename="x.png"\r\n\r\nhalf'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert http.request("POST", f"{server.inference}/predictions/digits_eager", body=cut, headers=headers).status == 400


def test_more_than_may_wait_is_refused_at_once_and_health_still_answers(
    server: ServedProcess, http: urllib3.PoolManager
) -> None:
    body = json.dumps([[1.0, 2.0]]).encode()

    def ask(_: int) -> tuple[int, float]:
        began = time.monotonic()
        reply = http.request(
            "POST", f"{server.inference}/predictions/slow", body=body, headers={"Content-Type": "application/json"}
        )
        return reply.status, time.monotonic() - began

    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(ask, range(32)))
        began = time.monotonic()
        assert http.request("GET", f"{server.inference}/ping").status == 200
        assert time.monotonic() - began < 0.4
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 503}
    assert min(seconds for status, seconds in answers if status == 503) < 0.25


def test_only_loopback_is_listened_on(server: ServedProcess) -> None:
    listening = [
        connection.laddr.ip
        for process in [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 3
    assert set(listening) == {"127.0.0.1"}


def test_a_worker_killed_while_it_computes(server: ServedProcess, http: urllib3.PoolManager) -> None:
    (described,) = server.get_json("/models/slow", server.management)
    worker = described["workers"][0]["pid"]
    reply: list[urllib3.BaseHTTPResponse] = []
    body, headers = json.dumps([[1.0, 2.0]]).encode(), {"Content-Type": "application/json"}
    asking = threading.Thread(
        target=lambda: reply.append(http.request("POST", f"{server.inference}/predictions/slow", body=body, headers=headers))
    )
    before = server.get_json("/v2/models/slow/stats")["model_stats"][0]["execution_count"]
    asking.start()
    time.sleep(0.15)  # it computes for half a second
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    asking.join()
    assert time.monotonic() - began < 0.4
    assert reply[0].status == 507, "TorchServe's status where a worker ended as the kernel ends it when memory is short"
    assert b"Worker died" in reply[0].data
    assert http.request("POST", f"{server.inference}/v2/models/digits_onnx/infer", body=infer()).status == 200
    wait_until(
        lambda: server.get_json("/models/slow", server.management)[0]["workers"][0]["status"] == "READY", 2.0, "the worker"
    )
    again = http.request("POST", f"{server.inference}/predictions/slow", body=body, headers=headers)
    assert (again.status, json.loads(again.data)) == (200, [[2.0, 4.0]])
    assert server.get_json("/v2/models/slow/stats")["model_stats"][0]["execution_count"] >= before + 1


def test_sigterm_answers_what_was_accepted(repository: Path, http: urllib3.PoolManager) -> None:
    body, headers = json.dumps([[3.0, 4.0]]).encode(), {"Content-Type": "application/json"}
    with serving(repository, flags=["--load-model", "slow"]) as server, ThreadPoolExecutor(12) as clients:
        children = psutil.Process(server.process.pid).children(recursive=True)
        url = f"{server.inference}/predictions/slow"
        replies = [clients.submit(http.request, "POST", url, body=body, headers=headers) for _ in range(12)]
        stats = "/v2/models/slow/stats"
        wait_until(lambda: server.get_json(stats)["model_stats"][0]["execution_count"] >= 1, 10.0, "the first batch")
        assert server.stop() == 0
        assert [reply.result().status for reply in replies] == [200] * 12
        assert not [child for child in children if child.is_running()]
