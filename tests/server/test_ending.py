"""What a running `jitney serve` costs while nobody asks, and how it ends when it has not even started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from jitney.tests.fakes.plane import doubling
from jitney.tools.served import Server, free_port, serving, taken, wait_until

PATIENCE = 30.0
IDLE_SECONDS = 2.0


def test_a_server_that_is_told_to_end_does_not_wait_for_models_that_load(tmp_path: Path) -> None:
    models = tmp_path / "models"
    doubling(models, "endless")
    (models / "endless" / "1" / "model.py").write_text(
        "print('it loads', flush=True)\nimport threading\nthreading.Event().wait()"
    )
    names = ("inference", "management", "metrics")
    addresses = "".join(f"{name}_address=http://127.0.0.1:{free_port()}\n" for name in names)
    (tmp_path / "config.properties").write_text(addresses)
    command = [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", str(models)]
    with subprocess.Popen(
        [*command, "--config", "config.properties"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert any("it loads" in line for line in process.stdout)
            worker = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert "Traceback" not in process.stdout.read()
            wait_until(lambda: not any(child.is_running() for child in worker), PATIENCE, "the worker's end")
        finally:
            process.kill()


def test_a_server_serves_though_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "double")
    ports = {name: free_port() for name in ("inference", "management", "metrics")}
    addresses = "".join(f"{name}_address=http://127.0.0.1:{port}\n" for name, port in ports.items())
    (tmp_path / "config.properties").write_text(addresses)
    command = [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", str(tmp_path / "models")]
    with subprocess.Popen(
        [*command, "--config", "config.properties"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        try:
            url = f"http://127.0.0.1:{ports['inference']}/v2/health/ready"
            wait_until(lambda: taken(ports["inference"]), PATIENCE, "the server")
            wait_until(lambda: urllib3.request("GET", url, timeout=PATIENCE).status == 200, PATIENCE, "the model")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    doubling(models, "double", "dynamic_batching { max_queue_delay_microseconds: 1000 }")
    with serving(models, flags=("--model-control-mode", "explicit", "--load-model", "double")) as server:
        yield server


def post(server: Server, path: str, body: str = "{}") -> int:
    return urllib3.request("POST", f"{server.inference}{path}", body=body, timeout=PATIENCE).status


def infer(server: Server) -> None:
    body = '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    assert post(server, "/v2/models/double/infer", body) == 200


def test_the_server_never_loads_torch(server: Server) -> None:
    infer(server)
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "numpy" in mapped  # so the names of libraries are really there
    assert "libtorch" not in mapped
    assert "onnxruntime" not in mapped


def test_an_idle_server_does_nothing(server: Server) -> None:
    """Neither it nor its worker uses a core, nor does any of their threads wake up more than once in a while."""
    infer(server)
    time.sleep(0.3)  # what follows an answer is over
    process = psutil.Process(server.process.pid)
    everybody = [process, *process.children(recursive=True)]

    def woken() -> int:
        return sum(
            int(line.split()[1])
            for each in everybody
            for task in Path(f"/proc/{each.pid}/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        )

    def used() -> float:
        return sum(sum(each.cpu_times()[:2]) for each in everybody)

    before, spent = woken(), used()
    time.sleep(IDLE_SECONDS)
    assert used() - spent <= 0.05
    assert woken() - before <= 10 * IDLE_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_loading_and_unloading_a_hundred_times_leaves_nothing(server: Server) -> None:
    process = psutil.Process(server.process.pid)

    def footprint() -> tuple[int, int, int, int]:
        listening = sum(connection.status == psutil.CONN_LISTEN for connection in process.net_connections())
        return process.num_fds(), process.num_threads(), len(process.children(recursive=True)), listening

    def once() -> None:
        assert post(server, "/v2/repository/models/double/unload") == 200
        assert post(server, "/v2/repository/models/double/load") == 200

    once()
    infer(server)
    wait_until(lambda: len(process.children()) == 1, PATIENCE, "the first worker's end")
    before = footprint()
    for _ in range(100):
        once()
    infer(server)
    wait_until(lambda: footprint() <= before, PATIENCE, f"{before}, now {footprint()}")
