"""What a running `jitney serve` says first, what it costs while nobody asks, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import urllib3

from jitney.server import main
from jitney.server.process.signals import Signals
from jitney.tests.fakes.plane import doubling
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, serving, taken, wait_until

PATIENCE = 30.0
IDLE_SECONDS = 2.0
#: Far fewer threads than a hundred loads could leave, and as many as requests that overlap may ask for.
POOL = 8


def test_a_server_that_is_told_to_end_does_not_wait_for_models_that_load(tmp_path: Path) -> None:
    models = tmp_path / "models"
    doubling(models, "endless")
    (models / "endless" / "1" / "model.py").write_text(
        "print('it loads', flush=True)\nimport threading\nthreading.Event().wait()"
    )
    names = ("inference", "management", "metrics")
    addresses = "".join(f"{name}_address=http://127.0.0.1:{free_port()}\n" for name in names)
    (tmp_path / "config.properties").write_text(addresses)
    command = [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", str(models), "--allow-grpc=false"]
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
    command = [
        sys.executable,
        "-m",
        "jitney.server.cli",
        "serve",
        "--model-repository",
        str(tmp_path / "models"),
        "--allow-grpc=false",
    ]
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    models = tmp_path_factory.mktemp("models")
    doubling(models, "double", "dynamic_batching { max_queue_delay_microseconds: 1000 }")
    with serving(models, flags=("--model-control-mode", "explicit", "--load-model", "double")) as server:
        yield server


def post(server: ServedProcess, path: str, body: str = "{}") -> int:
    return urllib3.request("POST", f"{server.inference}{path}", body=body, timeout=PATIENCE).status


def infer(server: ServedProcess) -> None:
    body = '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    assert post(server, "/v2/models/double/infer", body) == 200


def test_the_server_never_loads_torch(server: ServedProcess) -> None:
    infer(server)
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "numpy" in mapped  # so the names of libraries are really there
    assert "libtorch" not in mapped
    assert "onnxruntime" not in mapped


def test_an_idle_server_does_nothing(server: ServedProcess) -> None:
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
def test_loading_and_unloading_a_hundred_times_leaves_nothing(server: ServedProcess) -> None:
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
    descriptors, threads, *rest = before
    allowed = (descriptors, threads + POOL, *rest)  # a port's threads come as they are needed, and stay
    wait_until(lambda: all(map(int.__le__, footprint(), allowed)), PATIENCE, f"{before}, now {footprint()}")


# -- how it ends -----------------------------------------------------------------------------------------------------------

SLOW = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        print("it executes", flush=True)
        time.sleep(1.0)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""


@contextlib.contextmanager
def slow_server(folder: Path, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own process group, whose model takes a second, and the URL of its inference port."""
    doubling(folder / "models", "slow")
    (folder / "models" / "slow" / "1" / "model.py").write_text(SLOW)
    ports = {name: free_port() for name in ("http", "management", "metrics")}
    flags = [text for name, port in ports.items() for text in (f"--{name}-port", str(port))]
    command = [
        *prefix,
        sys.executable,
        "-m",
        "jitney.server.cli",
        "serve",
        "--model-repository",
        str(folder / "models"),
        "--allow-grpc=false",
    ]
    with subprocess.Popen(
        [*command, *flags], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None and any("Model server started." in line for line in process.stdout)
            yield process, f"http://127.0.0.1:{ports['http']}"
        finally:
            process.kill()


def ask_slowly(url: str) -> int:
    body = '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    return urllib3.request("POST", f"{url}/v2/models/slow/infer", body=body, timeout=PATIENCE, retries=False).status


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_its_processes_lets_it_answer_what_it_has_accepted(tmp_path: Path, number: signal.Signals) -> None:
    """A closed terminal sends SIGHUP to the whole process group, twice as a rule; Ctrl-C is a SIGINT to all of it."""
    with slow_server(tmp_path) as (process, url), ThreadPoolExecutor() as pool:
        asked = pool.submit(ask_slowly, url)
        assert process.stdout is not None and any("it executes" in line for line in process.stdout)
        os.killpg(process.pid, number)
        if number == signal.SIGHUP:
            time.sleep(0.05)
            os.killpg(process.pid, number)
        assert asked.result(PATIENCE) == 200
        assert process.wait(PATIENCE) == 0


def test_a_hangup_never_insists() -> None:
    received = Signals()
    long_ago = time.monotonic() - 60
    for number, insists in ((signal.SIGHUP, False), (signal.SIGTERM, True), (signal.SIGINT, True)):
        received.put(number)
        assert main._again(received, long_ago) is insists
    assert not main._again(received, long_ago)
    received.close()


def test_nohup_is_respected(tmp_path: Path) -> None:
    with slow_server(tmp_path, "sh", "-c", 'trap "" HUP; exec "$@"', "sh") as (process, url):
        os.killpg(process.pid, signal.SIGHUP)
        assert ask_slowly(url) == 200
        assert process.poll() is None


def test_where_it_listens_and_what_loads_is_said_before_anything_has_loaded(tmp_path: Path) -> None:
    for name in ("endless", "other"):
        doubling(tmp_path / "models", name)
        (tmp_path / "models" / name / "1" / "model.py").write_text("import threading\nthreading.Event().wait()")
    command = [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", "models"]
    with subprocess.Popen(
        [*command, "--http-port=0", "--management-port=0", "--metrics-port=0", "--grpc-port=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline().rstrip() for _ in range(6)]
            assert [line.rpartition(":")[0] for line in lines[:3]] == [
                f"{name} API bind to: http://127.0.0.1" for name in ("Inference", "Management", "Metrics")
            ]
            assert lines[3] == f"Status page: {lines[1].rpartition(' ')[2]}/status"
            assert lines[4].startswith("gRPC GRPCInferenceService bind to: 127.0.0.1:")
            assert lines[5] == "Loading endless, other."
            url = lines[0].rpartition(" ")[2]
            wait_until(
                lambda: urllib3.request("GET", f"{url}/v2/health/live").status == 200, PATIENCE, "the port that is said"
            )
        finally:
            process.kill()


def test_the_key_file_goes_with_the_server_that_wrote_it(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "double")
    keys = tmp_path / "key_file.json"
    with serving(tmp_path / "models", properties="disable_token_authorization=false\n", folder=tmp_path) as server:
        before = keys.read_text()
        busy = f"--http-port={server.inference.rpartition(':')[2]}"
        again = subprocess.run(
            [sys.executable, "-m", "jitney.server.cli", "serve", "--model-repository", "models", busy],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert again.returncode == 1 and "already in use" in again.stderr
        assert keys.read_text() == before  # the server that did not start has not replaced the keys of the one that runs
    assert not keys.exists()
