"""System shared memory: what may be named, bounds, and regions that vanish while they are used."""

from __future__ import annotations

import gc
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon
import falcon.testing
import pytest

from jitney.core.errors import InvalidRequest
from jitney.server.http.kserve.errors import RegionNotFound
from jitney.server.http.kserve.shm import ClientRegions
from jitney.tests.fakes.dataplane import FakeDataPlane
from jitney.tests.fakes.kserve_app import kserve_app
from jitney.tests.server.http.kserve.messages import entry, floats, post

Client = falcon.testing.TestClient
Make = Callable[[bytes], str]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes files in /dev/shm and returns their keys."""
    made: list[Path] = []

    def make_one(content: bytes) -> str:
        path = Path(f"/dev/shm/jitney_test_{uuid.uuid4().hex}")
        path.write_bytes(content)
        made.append(path)
        return "/" + path.name

    yield make_one
    for path in made:
        path.unlink(missing_ok=True)


def control(client: Client, path: str, document: Any = None) -> falcon.testing.Result:
    return client.simulate_post(f"/v2/systemsharedmemory{path}", body=json.dumps(document) if document is not None else "")


def shared(offset: int, size: int, region: str = "r0") -> dict[str, Any]:
    return {"shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size}


def register(client: Client, key: str, size: int, name: str = "r0", offset: int = 0) -> None:
    reply = control(client, f"/region/{name}/register", {"key": key, "offset": offset, "byte_size": size})
    assert (reply.status_code, reply.content) == (200, b""), reply.text


def test_tensors_travel_through_memory_with_offsets(client: Client, make: Make) -> None:
    key = make(bytes(8) + floats(5, 6, 7) + bytes(44))
    register(client, key, 56, offset=8)
    source = entry("INPUT0", [1, 3], "FP32", parameters=shared(0, 12))
    body = {"inputs": [source], "outputs": [{"name": "OUTPUT0", "parameters": shared(16, 12)}]}
    reply = post(client, "identity", body)
    assert reply.json["outputs"] == [entry("OUTPUT0", [1, 3], "FP32")]
    assert Path("/dev/shm" + key).read_bytes() == bytes(8) + floats(5, 6, 7) + bytes(4) + floats(5, 6, 7) + bytes(28)


def test_register_status_unregister(client: Client, make: Make) -> None:
    key = make(bytes(64))
    register(client, key, 64)
    row = {"name": "r0", "key": key, "offset": 0, "byte_size": 64}
    assert client.simulate_get("/v2/systemsharedmemory/status").json == [row]
    assert client.simulate_get("/v2/systemsharedmemory/region/r0/status").json == [row]
    again = control(client, "/region/r0/register", {"key": key, "byte_size": 64})
    assert (again.status_code, again.json) == (400, {"error": "shared memory region 'r0' already in manager"})
    assert control(client, "/region/zz/unregister").status_code == 200
    assert control(client, "/region/r0/unregister").status_code == 200
    unknown = client.simulate_get("/v2/systemsharedmemory/region/r0/status")
    assert (unknown.status_code, unknown.json) == (404, {"error": "Unable to find system shared memory region: 'r0'"})


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"key": "/k"}, "Shared memory register request has no 'byte_size' field"),
        ({"byte_size": 4}, "Shared memory register request has no 'key' field"),
        ({"key": 3, "byte_size": 4}, "non-string"),
        ({"key": "/absent_for_sure", "byte_size": 4}, "Unable to open shared memory region: '/absent_for_sure'"),
        ({"key": "/k", "byte_size": -1}, "Unable to parse 'byte_size'"),
        ({"key": "/k", "byte_size": 2**64}, "Unable to parse 'byte_size'"),
    ],
)
def test_a_bad_registration_is_refused(client: Client, document: Any, text: str) -> None:
    reply = control(client, "/region/r0/register", document)
    assert reply.status_code == 400
    assert text in reply.json["error"]
    assert "necessary" in control(client, "/register", document).json["error"]


@pytest.mark.parametrize("size", [65, 2**63, 0])
def test_a_region_lies_within_its_file(client: Client, make: Make, size: int) -> None:
    reply = control(client, "/region/r0/register", {"key": make(bytes(64)), "byte_size": size})
    assert reply.status_code == 400
    assert (
        control(client, "/region/r0/register", {"key": make(bytes(64)), "byte_size": 8, "offset": 2**64 - 1}).status_code
        == 400
    )


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "..",
        "/..",
        ".",
        "/../etc/passwd",
        "/a/b",
        "//a",
        "a\x00b",
        "x" * 300,
        "\udc80",
        "/triton_python_backend_shm_region_1",
    ],
)
def test_a_key_names_a_file_in_dev_shm_and_nothing_else(key: str) -> None:
    with pytest.raises(InvalidRequest):
        ClientRegions().register("r", key, 0, 1)


def test_links_and_special_files_are_not_followed() -> None:
    link, fifo = Path(f"/dev/shm/jitney_test_{uuid.uuid4().hex}"), Path(f"/dev/shm/jitney_test_{uuid.uuid4().hex}")
    link.symlink_to("/etc/hostname")
    os.mkfifo(fifo)
    try:
        for path in (link, fifo):
            with pytest.raises(InvalidRequest, match="Unable to open"):
                ClientRegions().register("r", path.name, 0, 1)
    finally:
        link.unlink()
        fifo.unlink()


@pytest.mark.parametrize(("offset", "size"), [(60, 12), (0, 65), (2**63, 12), (2**64 - 1, 2**64 - 1)])
def test_a_tensor_lies_within_its_region(client: Client, make: Make, offset: int, size: int) -> None:
    register(client, make(bytes(128)), 64)
    source = entry("INPUT0", [1, 3], "FP32", parameters=shared(offset, size))
    reply = post(client, "identity", {"inputs": [source]})
    assert (reply.status_code, reply.json) == (400, {"error": "Invalid offset + byte size for shared memory region: 'r0'"})
    target = {"name": "OUTPUT0", "parameters": shared(offset, size)}
    data = entry("INPUT0", [1, 1], "FP32", data=[1])
    assert post(client, "identity", {"inputs": [data], "outputs": [target]}).status_code == 400


def test_an_output_that_does_not_fit_is_refused_and_writes_nothing(client: Client, make: Make) -> None:
    key = make(bytes(64))
    register(client, key, 64)
    body = {"inputs": [entry("INPUT0", [1, 3], "FP32", data=[1, 2, 3])]}
    reply = post(client, "identity", body | {"outputs": [{"name": "OUTPUT0", "parameters": shared(0, 4)}]})
    assert reply.status_code == 400
    assert "(4 bytes) should be at least 12 bytes" in reply.json["error"]
    assert Path("/dev/shm" + key).read_bytes() == bytes(64)


def test_contradicting_and_missing_parameters_are_refused(client: Client, make: Make) -> None:
    register(client, make(bytes(64)), 64)
    source = entry("INPUT0", [1, 1], "FP32", data=[1])
    for extra in ({"binary_data": True}, {"classification": 2}):
        reply = post(
            client, "identity", {"inputs": [source], "outputs": [{"name": "OUTPUT0", "parameters": shared(0, 4) | extra}]}
        )
        assert "Output can't set both 'shared_memory_region'" in reply.json["error"]
    no_size = {**entry("INPUT0", [1, 1], "FP32"), "parameters": {"shared_memory_region": "r0"}}
    assert "shared_memory_byte_size" in post(client, "identity", {"inputs": [no_size]}).json["error"]
    unknown = {**entry("INPUT0", [1, 1], "FP32"), "parameters": shared(0, 4, "zz")}
    reply = post(client, "identity", {"inputs": [unknown]})
    assert (reply.status_code, reply.json) == (404, {"error": "Unable to find shared memory region: 'zz'"})


def test_a_file_that_shrank_is_an_error_and_no_crash(make: Make) -> None:
    regions = ClientRegions()
    key = make(bytes(64))
    regions.register("r", key, 0, 64)
    place = regions.place("r", 32, 32)
    os.truncate("/dev/shm" + key, 40)
    with pytest.raises(InvalidRequest, match="shorter"):
        place.read()
    with pytest.raises(InvalidRequest, match="shorter"):
        place.write("OUT", bytes(32))
    assert Path("/dev/shm" + key).stat().st_size == 40


def test_a_region_stays_open_for_requests_in_flight_and_then_closes(make: Make) -> None:
    regions = ClientRegions()
    key = make(b"x" * 64)
    regions.register("r", key, 0, 64)
    place = regions.place("r", 0, 64)
    regions.unregister("r")
    with pytest.raises(RegionNotFound):
        regions.place("r", 0, 1)
    place.write("OUT", b"y" * 64)
    assert place.read() == b"y" * 64
    assert opened(key) == 1
    del place
    gc.collect()
    assert opened(key) == 0


def opened(key: str) -> int:
    """How many of this process's descriptors are the key's file."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(link) == "/dev/shm" + key for link in links)


def test_a_tensor_larger_than_one_read_is_refused_before_memory_is_taken(make: Make) -> None:
    regions = ClientRegions()
    key = make(b"")
    os.truncate("/dev/shm" + key, 3 << 30)
    regions.register("r", key, 0, 3 << 30)
    with pytest.raises(InvalidRequest, match="at most"):
        regions.place("r", 0, 3 << 30)


def test_shared_memory_that_is_not_allowed_is_refused_everywhere(dataplane: FakeDataPlane, make: Make) -> None:
    client = falcon.testing.TestClient(kserve_app(dataplane, 1 << 20, server_id="mine", allow_client_shm=False))
    assert client.simulate_get("/v2").json["name"] == "mine"
    region = {"key": make(bytes(64)), "byte_size": 8}
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    body = {"inputs": [{"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "parameters": place}]}
    replies = [
        client.simulate_post("/v2/systemsharedmemory/region/r/register", json=region),
        client.simulate_get("/v2/systemsharedmemory/status"),
        client.simulate_post("/v2/systemsharedmemory/unregister"),
        client.simulate_post("/v2/models/identity/infer", json=body),
    ]
    for reply in replies:
        assert (reply.status_code, "--allow-client-shm=false" in reply.json["error"]) == (501, True)
