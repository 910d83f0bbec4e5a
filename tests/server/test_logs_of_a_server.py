"""What a real server logs of requests: each failure once, with its traceback once and the request's ids."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.serving import write_model
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, serving, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
BROKEN = """
class TritonPythonModel:
    def execute(self, requests):
        raise RuntimeError("the model broke")
"""
CONFIG = """backend: "python" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [ 3 ] }
"""


def ask(server: ServedProcess, request_id: str) -> int:
    body = {"id": request_id, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    request = urllib.request.Request(server.inference + "/v2/models/broken/infer", json.dumps(body).encode(), HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def documents(server: ServedProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines if line.startswith("{")]


def answers(server: ServedProcess) -> list[dict[str, Any]]:
    """The access log."""
    return [found for found in documents(server) if found["logger"] == "jitney.access"]


def ask_over_grpc(address: str, request_id: str) -> None:
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    with triton.InferenceServerClient(address) as client, pytest.raises(InferenceServerException, match="the model broke"):
        client.infer("broken", [tensor], request_id=request_id, headers=HEADERS)


def test_calls_of_grpc_have_the_same_line(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "broken", CONFIG, BROKEN)
    port, other = free_port(), free_port()
    flags = ["--log-format=json", "--access-log=terminal", f"--grpc-port={port}"]
    with serving(tmp_path / "models", flags=flags, properties=f"grpc_inference_port={other}\n", grpc=True) as server:
        ask_over_grpc(f"127.0.0.1:{port}", "over gRPC")
        ask(server, "over HTTP")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/no.Service/Call")(b"")
        with grpc.insecure_channel(f"127.0.0.1:{other}") as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")(b"")
        wait_until(lambda: len(answers(server)) == 4, 20, "the access log")
        found = {line["path"]: line for line in answers(server)}
    called, asked = found["inference.GRPCInferenceService/ModelInfer"], found["/v2/models/broken/infer"]
    assert called.items() >= {"method": "gRPC", "status": "INTERNAL", "trace_id": TRACE, "request_id": "over gRPC"}.items()
    assert called.keys() == asked.keys() and asked["request_id"] == "over HTTP"
    assert type(called["ms"]) is type(asked["ms"]) is float
    assert found["no.Service/Call"]["status"] == "UNIMPLEMENTED"
    assert len(found["org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"]["request_id"]) == 36


@pytest.mark.parametrize("front_ends", ["1", "2"])
def test_a_failure_is_logged_once_with_its_traceback_and_its_ids(tmp_path: Path, front_ends: str) -> None:
    write_model(tmp_path / "models", "broken", CONFIG, BROKEN)
    flags = ["--log-format=json", "--access-log=terminal"]
    with serving(tmp_path / "models", flags=flags, properties=f"front_ends={front_ends}\n") as server:
        threads = [threading.Thread(target=ask, args=(server, f"r{number}")) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(answers(server)) == 3, 20, "the access log")
        found = documents(server)
    failures = [line for line in found if "the model broke" in json.dumps(line)]
    assert len(failures) == 1, failures
    assert sorted(failures[0]["request_ids"]) == ["r0", "r1", "r2"]
    assert json.dumps(failures[0]).count("Traceback") == 1
    for line in answers(server):
        assert (
            line.items() >= {"method": "POST", "path": "/v2/models/broken/infer", "status": 500, "trace_id": TRACE}.items()
        )
    assert sorted(line["request_id"] for line in answers(server)) == ["r0", "r1", "r2"]
