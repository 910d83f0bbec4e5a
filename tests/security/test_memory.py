"""Holes 12, 14, 15: shared memory and sizes of clients, over HTTP and gRPC."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.server.grpc import schema
from jitney.tests.security.conftest import Everything

METHODS = schema.triton().methods["inference.GRPCInferenceService"]
KEYS = (
    "../etc/passwd",
    "/../etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "a\0b",
    "/",
    "x" * 5000,
    "//jitney",
    "/dev/mem",
    "memfd:jitney-arena",
)


def register(server: Everything, key: str, name: str = "r", size: int = 8) -> tuple[int, tuple[str, str]]:
    """HTTP's status, and gRPC's with its text, for one and the same registration."""
    body = json.dumps({"key": key, "offset": 0, "byte_size": size}).encode()
    status = server.site.ask("inference", "POST", f"/v2/systemsharedmemory/region/{name}/register", body).status
    method = METHODS["SystemSharedMemoryRegister"]
    return status, server.call("triton", method, method.request(name=name + "g", key=key, byte_size=size))


@pytest.mark.parametrize("key", KEYS)
def test_a_key_names_nothing_but_a_client_s_memory(server: Everything, key: str) -> None:
    status, (code, text) = register(server, key)
    unreadable = ("INTERNAL",) if "shared memory region" in text else ()  # Triton's code for memory that it cannot open
    assert 400 <= status < 500 and code in ("INVALID_ARGUMENT", "NOT_FOUND", *unreadable), (status, code, text)
    assert json.loads(server.site.ask("inference", "GET", "/v2/systemsharedmemory/status").body) == []


def test_the_servers_own_memory_has_no_name(server: Everything) -> None:
    """So that no client can register it: memory of the server's is a memfd, and nothing of it lies in /dev/shm."""
    server.site.predict("echo", b"abc")
    names = {
        str(fd.readlink())
        for process in server.processes()
        for fd in Path(f"/proc/{process.pid}/fd").iterdir()
        if fd.is_symlink()
    }
    mapped = {
        line.split()[-1]
        for process in server.processes()
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        if "jitney-" in line
    }
    assert any(name.startswith("/memfd:jitney-") for name in names | mapped)
    assert not [name for name in names | mapped if name.startswith("/dev/shm")]


def test_errors_do_not_tell_how_memory_is_named(server: Everything) -> None:
    wrong = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 2],
                    "datatype": "FP32",
                    "parameters": {"shared_memory_region": "jitney-arena", "shared_memory_byte_size": 8},
                }
            ]
        }
    )
    answers = [
        server.site.ask("inference", "POST", "/v2/models/m/infer", wrong.encode()).body,
        server.site.ask("inference", "POST", "/v2/models/text/infer", b"{").body,
        server.site.predict("nobody").body,
    ]
    for answer in answers:
        text = answer.decode().replace("'jitney-arena'", "").replace('\\"jitney-arena\\"', "")
        assert not any(word in text for word in ("memfd", "/proc/", "/dev/shm", "jitney-")), text


SHAPES = ([2**31, 2**31], [2**32, 2**32], [2**62, 4], [-1, 2], [2**63 - 1, 2], [1] * 1000, [0, 2**62])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_whose_product_overflows_over_both(server: Everything, shape: list[int]) -> None:
    document = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1, 2]}]}
    assert 400 <= server.site.ask("inference", "POST", "/v2/models/m/infer", json.dumps(document).encode()).status < 500
    method = METHODS["ModelInfer"]
    for contents in ("raw", "typed"):
        message = method.request(model_name="m")
        entry = message.inputs.add(name="x", datatype="FP32", shape=shape)
        if contents == "raw":
            message.raw_input_contents.append(bytes(8))
        else:
            entry.contents.fp32_contents.extend([1, 2])
        assert server.call("triton", method, message)[0] == "INVALID_ARGUMENT"
    good = method.request(model_name="m")
    good.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    good.raw_input_contents.append(bytes(8))
    assert server.call("triton", method, good)[0] == "OK"


@pytest.fixture
def region() -> Iterator[str]:
    name = f"/jitney-test-{os.getpid()}"
    path = Path("/dev/shm" + name)
    path.write_bytes(np.ones(2, np.float32).tobytes())
    yield name
    path.unlink()


def test_memory_that_is_unregistered_while_it_is_used(server: Everything, region: str) -> None:
    """Triton used it after that. Here a request that has found it keeps it, and one that has not is refused."""
    body = {"key": region, "offset": 0, "byte_size": 8}
    place = {"shared_memory_region": "u", "shared_memory_byte_size": 8}
    ask = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": place}]}).encode()
    stop, statuses, wrong = threading.Event(), set(), []

    def infer() -> None:
        while not stop.is_set():
            answer = server.site.ask("inference", "POST", "/v2/models/m/infer", ask)
            statuses.add(answer.status)
            if answer.status == 200 and json.loads(answer.body)["outputs"][0]["data"] != [2.0, 2.0]:
                wrong.append(answer.body)

    def post(path: str, document: Any = None) -> int:
        return server.site.ask("inference", "POST", path, json.dumps(document or {}).encode()).status

    clients = [threading.Thread(target=infer) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for _ in range(150):
            assert post("/v2/systemsharedmemory/region/u/register", body) == 200
            assert post("/v2/systemsharedmemory/region/u/unregister") == 200
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not wrong and statuses <= {200, 400, 404}
    held = [fd for fd in Path(f"/proc/{server.pid}/fd").iterdir() if os.path.realpath(fd) == "/dev/shm" + region]
    assert len(held) <= 1
