"""gRPC beside HTTP: batches of both, keys, restricted calls, limits, TLS, ports, the end of a front end and of the server."""

from __future__ import annotations

import concurrent.futures
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from jitney.server.grpc import schema
from jitney.tests.fakes.certificates import self_signed
from jitney.tests.fakes.grpc import DOUBLE, DOUBLE_CONFIG, Site, X, given, grpc_serving, repository
from jitney.tests.fakes.serving import write_model
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, wait_until


def told(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.as_numpy("told")[0, 0])
    return found


def refused(call: Any, *args: Any, **values: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **values)
    return caught.value.status(), caught.value.message()


@pytest.mark.parametrize("front_ends", [1, 2])
def test_one_batch_holds_requests_of_http_and_of_grpc(tmp_path: Path, front_ends: int) -> None:
    folder = repository(tmp_path / "models", delay_us=3_000_000)
    with grpc_serving(folder, properties=f"front_ends={front_ends}\ngrpc_front_ends=2\n") as site:
        over_grpc = triton.InferenceServerClient(site.address)
        over_http = triton_http.InferenceServerClient(site.server.inference.removeprefix("http://"), concurrency=2)
        tensor = triton_http.InferInput("x", [2, 2], "FP32")
        tensor.set_data_from_numpy(X)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(over_grpc.infer, "double", [given()]) for _ in range(2)]
            pending = [over_http.async_infer("double", [tensor]) for _ in range(2)]
            results = [each.get_result() for each in pending]  # first: what is pending is sent while something waits for it
            results += [future.result() for future in asked]
        assert [(told(result)["batch"], told(result)["requests"]) for result in results] == [(8, 4)] * 4
        assert time.monotonic() - began < 3
        over_grpc.close()
        over_http.close()


def test_keys(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    properties = "disable_token_authorization=false\n"
    (tmp_path / "run").mkdir()
    os.environ.pop("JITNEY_TOKEN", None)
    with grpc_serving(folder, properties=properties) as site, triton.InferenceServerClient(site.address) as client:
        keys = json.loads((Path(f"/proc/{site.server.process.pid}/cwd") / "key_file.json").read_text())
        inference, management = ({"authorization": f"Bearer {keys[kind]['key']}"} for kind in ("inference", "management"))
        denied = ("StatusCode.UNAUTHENTICATED", "Token Authorization failed. Token either incorrect, expired, or not provided "
                  "correctly")  # fmt: skip
        assert refused(client.is_server_live) == denied
        assert refused(client.infer, "double", [given()]) == denied
        assert refused(client.infer, "double", [given()], headers={"authorization": "Bearer x"}) == denied
        assert refused(client.unload_model, "sum", headers=inference) == denied
        assert client.is_server_live(headers=inference)
        assert client.infer("double", [given()], headers=inference).as_numpy("y").tolist() == (X * 2).tolist()
        client.unload_model("sum", headers=management)
        request = urllib.request.Request(
            f"{site.server.management}/token?type=inference", headers={"Authorization": f"Bearer {keys['API']['key']}"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request):
            assert refused(client.infer, "double", [given()], headers=inference) == denied  # a new key counts at once


def test_http_s_restrictions_hold_for_grpc_too(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with (
        grpc_serving(folder, "--http-restricted-api=statistics,inference:admin-key=secret") as site,
        triton.InferenceServerClient(site.address) as client,
    ):
        text = "This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'"
        assert refused(client.get_inference_statistics) == ("StatusCode.UNAVAILABLE", text)
        assert refused(client.infer, "double", [given()]) == ("StatusCode.UNAVAILABLE", text)
        key = {"triton-grpc-protocol-admin-key": "secret"}
        assert client.infer("double", [given()], headers=key).as_numpy("y").tolist() == (X * 2).tolist()
        assert client.get_model_repository_index().models


def test_messages_over_the_limit(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with (
        grpc_serving(folder, "--http-max-input-size=100000") as site,
        triton.InferenceServerClient(site.address) as client,
    ):
        large = given(np.zeros((1, 30_000), np.float32))
        status, text = refused(client.infer, "double", [large])
        assert status == "StatusCode.RESOURCE_EXHAUSTED"
        assert re.search(r"larger than max \(\d+ vs\. 100000\)", text)
        bomb = given(np.zeros((1, 5_000_000), np.float32))
        assert refused(client.infer, "double", [bomb], compression_algorithm="gzip")[0] == "StatusCode.RESOURCE_EXHAUSTED"
        assert client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist()


def test_answers_are_compressed_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    model = DOUBLE_CONFIG.replace("dims: [ 2 ]", "dims: [ -1 ]").replace("max_batch_size: 8", "max_batch_size: 1")
    write_model(folder, "wide", model.replace('label_filename: "labels.txt"', ""), DOUBLE)
    with grpc_serving(folder, "--grpc-infer-response-compression-level=high") as site:
        with triton.InferenceServerClient(site.address, verbose=False) as client:
            answer = client.infer("wide", [given(np.zeros((1, 100_000), np.float32))])
            assert answer.as_numpy("y").shape == (1, 100_000)
        sent = bytes_sent_for(site, "wide", np.zeros((1, 100_000), np.float32))
    assert sent < 50_000


def bytes_sent_for(site: Site, model: str, array: np.ndarray[Any, Any]) -> int:
    """How many bytes the server sends for one request, counted by a relay between client and server."""
    counted = 0
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = site.address.split(":")

        def relay() -> int:
            total = 0
            ours, _ = listening.accept()
            theirs = socket.create_connection((host, int(port)))
            with ours, theirs, concurrent.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(pump, ours, theirs)
                while data := theirs.recv(65536):
                    total += len(data)
                    ours.sendall(data)
            return total

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            counting = pool.submit(relay)
            with triton.InferenceServerClient(f"127.0.0.1:{listening.getsockname()[1]}") as client:
                client.infer(model, [given(array)])
            counted = counting.result(30)
    return counted


def pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def test_tls_and_certificates_of_clients(tmp_path: Path) -> None:
    key, cert = self_signed(tmp_path)
    folder = repository(tmp_path / "models")
    files = (f"--grpc-server-key={key}", f"--grpc-server-cert={cert}", f"--grpc-root-cert={cert}")
    with grpc_serving(folder, "--grpc-use-ssl=true", "--grpc-use-ssl-mutual", *files) as site:
        options = {"ssl": True, "root_certificates": str(cert)}
        mine = {"private_key": str(key), "certificate_chain": str(cert)}
        with triton.InferenceServerClient(site.address, **options, **mine) as client:
            assert client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist()
        for wrong in (options, {}):
            with triton.InferenceServerClient(site.address, **wrong) as client:
                assert refused(client.is_server_live, client_timeout=10)[0] == "StatusCode.UNAVAILABLE"
        assert not [line for line in site.server.lines if "andshake" in line]  # whoever knocks writes nothing into the log


@pytest.fixture
def healthy(site: Site) -> Iterator[Any]:
    with grpc.insecure_channel(site.address) as channel:
        yield channel


def test_the_standard_health_service(healthy: Any) -> None:
    method = schema.triton().methods["grpc.health.v1.Health"]["Check"]
    check = healthy.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
    for service in ("", "inference.GRPCInferenceService", "anything"):
        assert check(method.request(service=service)).status == 1


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Watch", "/no.such/Service", "/inference.GRPCInferenceService/Nope"]
)
def test_calls_that_there_are_not(healthy: Any, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        healthy.unary_unary(path)(b"")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "")


def front_ends(server: ServedProcess) -> list[int]:
    """The processes of a server that answer gRPC."""
    children = [path.read_text().split() for path in Path(f"/proc/{server.process.pid}/task").glob("*/children")]
    every = [int(child) for found in children for child in found]
    return [pid for pid in every if "--name=grpc-" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_front_end_that_dies_is_replaced(tmp_path: Path) -> None:
    with grpc_serving(repository(tmp_path / "models")) as site, triton.InferenceServerClient(site.address) as client:
        assert client.is_server_live()
        (pid,) = front_ends(site.server)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: front_ends(site.server) not in ([], [pid]), 20, "another front end")

        def answers() -> bool:
            try:
                return bool(client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist())
            except InferenceServerException:
                return False

        wait_until(answers, 20, "an answer of the new one")


def test_at_the_end_what_was_accepted_is_answered(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with grpc_serving(folder) as site, triton.InferenceServerClient(site.address) as client:
        slow = given(np.full((1, 2), -1501, np.float32))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.infer, "double", [slow])
            wait_until(lambda: begun(folder), 20, "the request's way to the model")
            site.server.process.send_signal(signal.SIGTERM)
            assert asked.result(30).as_numpy("y").tolist() == [[-3002, -3002]]
        assert site.server.process.wait(30) == 0


def test_at_the_end_open_streams_are_not_waited_for(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with grpc_serving(folder) as site, triton.InferenceServerClient(site.address) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer("double", [given()])
        assert answers.get(timeout=30).as_numpy("y").tolist() == (X * 2).tolist()
        client.async_stream_infer("double", [given(np.full((1, 2), -501, np.float32))])
        wait_until(lambda: begun(folder), 20, "the request's way to the model")
        began = time.monotonic()
        site.server.process.send_signal(signal.SIGTERM)
        assert answers.get(timeout=30).as_numpy("y").tolist() == [[-1002, -1002]]
        assert answers.get(timeout=30).status() == "StatusCode.UNAVAILABLE"
        assert site.server.process.wait(30) == 0
        assert time.monotonic() - began < 10


def begun(folder: Path) -> bool:
    """Whether the model has a request that it takes its time for."""
    return (folder / "double" / "1" / "begun").exists()


def start(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    ports = [f"--{name}-port={free_port()}" for name in ("http", "management", "metrics")]
    command = [sys.executable, "-m", "jitney.server.cli", "serve", f"--model-repository={folder}", *ports, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)


def test_a_port_that_is_taken_ends_the_start_where_it_was_asked_for(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(folder, f"--grpc-port={port}")
    assert done.returncode == 1
    assert f"grpc_port=127.0.0.1:{port}: the address is already in use; choose another grpc_port" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grpc-use-ssl"], "grpc_server_key is not set: TLS over gRPC needs it"),
        (["--grpc-use-ssl", "--grpc-server-key=none.pem"], r"grpc_server_key: '.*none\.pem' cannot be read: No such file"),
        (["--grpc-use-ssl", "--grpc-server-key=double/labels.txt"], r"grpc_server_key: '.*' holds no private key in PEM"),
    ],
)
def test_files_of_tls_that_are_of_no_use_end_the_start(tmp_path: Path, flags: list[str], message: str) -> None:
    done = start(repository(tmp_path / "models"), f"--grpc-port={free_port()}", *flags)
    assert done.returncode == 1
    assert re.search(message, done.stderr)


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    folder = repository(tmp_path / "models")
    with grpc_serving(folder) as site:
        done = start(folder, f"--grpc-port={site.address.split(':')[1]}")
    assert done.returncode == 1
    assert "is already in use" in done.stderr


def test_other_machines_are_let_in_by_a_decision_only(tmp_path: Path) -> None:
    done = start(repository(tmp_path / "models"), "--grpc-address=0.0.0.0")
    assert done.returncode == 1
    assert (
        "grpc_port 0.0.0.0:8001 can be reached from other machines, and nothing says how requests are authorized"
        in done.stderr
    )
