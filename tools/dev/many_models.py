"""Many models on one machine: what a server with N small models that load on demand takes, before and after they are asked.

    python -m jitney.tools.dev.many_models [--models 1000] [--asked 50] [--start] [--bare] [--group NAME]

Prints the seconds until the server is ready, its memory (Pss: shared pages divided by how many share them) and threads, before
and after some models are asked, and the time of their first answers, for which they are loaded, and of their second ones.
`--start` loads all at the start instead, `--bare` leaves the `config.pbtxt` away, so that inputs and outputs are read from the
files. With `--group` all models are in this `worker_group` and share a process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

from ...server.serving.model_cache import proportional_memory
from ..bench.ports import free_port
from ..bench.served import wait_until

CONFIG = """platform: "onnxruntime_onnx" max_batch_size: 8 dynamic_batching {} instance_group [ { kind: KIND_CPU count: 1 } ]
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
LIMIT_S = 600.0


def write_models(folder: Path, count: int, *, bare: bool = False, group: str = "") -> None:
    """`count` ONNX models `m0000`, …: y = x w, each with weights of its own."""
    from onnx import TensorProto, helper, numpy_helper, save

    for number in range(count):
        weight = np.full((4, 3), number, np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            initializer=[numpy_helper.from_array(weight, "w")],
        )
        version = folder / name_of(number) / "1"
        version.mkdir(parents=True)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), version / "model.onnx")
        if not bare:
            shares = f'parameters {{ key: "worker_group" value {{ string_value: "{group}" }} }}\n' if group else ""
            (version.parent / "config.pbtxt").write_text(CONFIG + shares)


def name_of(number: int) -> str:
    return f"m{number:04d}"


class Served:
    """A server of its own on free ports."""

    def __init__(self, repository: Path, arguments: Sequence[str] = ()) -> None:
        self.ports = [free_port() for _ in range(3)]
        flags = [f"--{name}-port={port}" for name, port in zip(("http", "management", "metrics"), self.ports, strict=True)]
        command = [sys.executable, "-m", "jitney.server.cli", "serve", f"--model-repository={repository}"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, *flags, "--allow-grpc=false", *arguments], stdout=self._log, stderr=self._log
        )

    def wait_ready(self) -> float:
        """Seconds from its start until it was ready."""
        while time.monotonic() - self.began < LIMIT_S and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5):
                    return time.monotonic() - self.began
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"the server did not become ready:\n{self.log()[-2000:]}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def ask(self, number: int) -> float:
        """Seconds until the model has answered; RuntimeError where the answer is not its own."""
        began = time.perf_counter()
        request = urllib.request.Request(f"{self.url}/v2/models/{name_of(number)}/infer", BODY)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)["outputs"][0]["data"]
        if found != [10.0 * number] * 3:
            raise RuntimeError(f"model {number} answered {found}")
        return time.perf_counter() - began

    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(
            errors="replace"
        )  # which leaves the server's place in it alone

    def threads(self) -> int:
        return psutil.Process(self.process.pid).num_threads()

    def memory(self) -> tuple[float, int]:
        """MB of the server and of all its workers, and how many of these there are."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        total = sum(proportional_memory(each) for each in (self.process.pid, *(child.pid for child in children)))
        return total / 1e6, len(children)

    def stop(self) -> float:
        """Ends it; seconds that it took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(60)
        return time.monotonic() - began

    def kill(self) -> None:
        """Ends it at once, where it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Polls until it is true; TimeoutError after a while."""
        wait_until(condition, 60, "the server to settle")


def measure(server: Served, models: int, asked: int) -> None:
    say(f"{models} models: ready after {server.wait_ready():.1f} s")
    report(server)
    chosen = [number * models // asked for number in range(asked)]
    cold = sorted(server.ask(number) for number in chosen)
    say(f"first answers of {asked}: median {statistics.median(cold) * 1e3:.0f} ms, longest {cold[-1] * 1e3:.0f} ms")
    warm = sorted(server.ask(number) for number in chosen)
    say(f"second answers: median {statistics.median(warm) * 1e3:.1f} ms, longest {warm[-1] * 1e3:.1f} ms")
    report(server)
    say(f"ended after {server.stop():.1f} s")


def report(server: Served) -> None:
    memory, workers = server.memory()
    say(f"  {memory:.0f} MB in all, {server.threads()} threads of the server, {workers} workers")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--asked", type=int, default=50)
    parser.add_argument("--start", action="store_true", help="load all models at the start")
    parser.add_argument("--bare", action="store_true", help="models without a config.pbtxt")
    parser.add_argument("--group", default="", help="the worker_group of all models")
    options = parser.parse_args()
    if options.bare and options.group:
        parser.error("--bare leaves away the config.pbtxt in which --group would be")
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="jitney-many-") as folder:
        write_models(Path(folder), options.models, bare=options.bare, group=options.group)
        server = Served(Path(folder), () if options.start else ("--default-load=on_demand",))
        try:
            measure(server, options.models, min(options.asked, options.models))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
