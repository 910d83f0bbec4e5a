"""A Ray cluster on loopback, models whose answers can be checked, and clients that send to them while something happens."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jitney.deploy.ray.status import is_ready

HTTP_PORT = 18000
#: Read by Ray when it is imported, and by its processes.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
#: Adds 1, after a while in which it holds its requests: not known to be idempotent.
SLOW = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02)
        rows = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", row + 1)]) for row in rows]
"""
SLOW_CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
dynamic_batching { }
"""


def write_models(folder: Path) -> None:
    """`double`, an ONNX model with y = 2 x, and `slow`, a Python model."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in "xy")
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["y"])], "double", [x], [y], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "double" / "1").mkdir(parents=True)
    onnx.save(model, str(folder / "double" / "1" / "model.onnx"))
    (folder / "double" / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx"\nmax_batch_size: 16\ndynamic_batching { }\n'
    )
    (folder / "slow" / "1").mkdir(parents=True)
    (folder / "slow" / "1" / "model.py").write_text(SLOW)
    (folder / "slow" / "config.pbtxt").write_text(SLOW_CONFIG)


def servers() -> list[psutil.Process]:
    """The jitneys that actors of this machine run; the parent of each is its actor."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "jitney.deploy.server_process" in command and process.ppid() == int(command[3]):
            found.append(process)
    return found


def ready() -> list[psutil.Process]:
    """Those of them that are ready."""
    return [server for server in servers() if is_ready(f"http://127.0.0.1:{flag(server, '--http-port')}/v2/health/ready")]


def flag(server: psutil.Process, name: str) -> str:
    command: list[str] = server.cmdline()
    return command[command.index(name) + 1]


@dataclass
class Seen:
    """What clients saw."""

    right: dict[str, int] = field(default_factory=lambda: {"double": 0, "slow": 0})
    wrong: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.right.values()) + len(self.wrong) + len(self.failed)


class Clients:
    """Threads that send one request after the other: every fifth to `slow`, the others to `double`."""

    def __init__(self, threads: int, slow_share: int = 5, pause: float = 0.0) -> None:
        self.seen, self._lock, self._stop = Seen(), threading.Lock(), threading.Event()
        self._slow_share, self._pause = slow_share, pause
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, count: int, timeout: float = 120.0) -> None:
        """Returns when so many requests have been answered, one way or another."""
        wait_until(lambda: self.seen.count >= count, timeout, f"{count} answers; {self.seen.count} are there")

    def _run(self, number: int) -> None:
        value = number * 100_000.0
        connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=60)
        while not self._stop.wait(self._pause):
            value += 1
            model = "slow" if self._slow_share and int(value) % self._slow_share == 0 else "double"
            begun = time.monotonic()
            try:
                status, body = infer(connection, model, value)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status, body = 0, repr(error)
            self._note(model, value, status, body, time.monotonic() - begun)
        connection.close()

    def _note(self, model: str, value: float, status: int, body: str, seconds: float) -> None:
        with self._lock:
            self.seen.seconds.append(seconds)
            if status != 200:
                self.seen.failed.append((model, f"{status} {body[:300]}"))
                return
            answer = json.loads(body)["outputs"][0]["data"]
            wanted = 2 * value if model == "double" else value + 1
            if answer == [wanted]:
                self.seen.right[model] += 1
            else:
                self.seen.wrong.append(f"{model} of {value}: {answer}")


def infer(connection: http.client.HTTPConnection, model: str, value: float) -> tuple[int, str]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """Nodes with room for one jitney each (the resource `jitney`); the first one has Serve's controller and HAProxy, too."""
    os.environ.update(ENVIRONMENT)
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 << 20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "resources": {"jitney": 1},
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
            **memory,
        },
    )
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1, resources={"jitney": 1}, node_ip_address="127.0.0.1", **memory)
        ray.init(address=cluster.address, _node_ip_address="127.0.0.1", log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": HTTP_PORT})
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
