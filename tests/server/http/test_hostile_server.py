"""Requests made to do harm, over sockets to a real server process: 4xx within bounds, and the next request is fine."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import struct
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jitney.server.settings.addresses import parse_address
from jitney.tests.fakes.plane import doubling
from jitney.tests.fakes.raw_http import Connection
from jitney.tests.fakes.repository import PYTHON_MODEL
from jitney.tools.bench.served import ServedProcess, serving

#: Seconds that a refusal may take, and bytes of memory that the server may have more after it.
SECONDS, BYTES = 10.0, 96 << 20
DEEP = 100_000
LIMIT = 4 << 20
STRINGS = """
backend: "python" max_batch_size: 4
input [ { name: "words" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "words" data_type: TYPE_STRING dims: [ 2 ] } ]
"""
OVERRIDE = '{"backend": "python", "input": [], "output": []}'


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    doubling(folder, "m")
    (folder / "strings" / "1").mkdir(parents=True)
    (folder / "strings" / "config.pbtxt").write_text(STRINGS)
    (folder / "strings" / "1" / "model.py").write_text(PYTHON_MODEL)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServedProcess]:
    flags = ["--model-control-mode=explicit", "--load-model=*", f"--http-max-input-size={LIMIT}"]
    with serving(repository, flags=flags) as server:
        yield server


@pytest.fixture(autouse=True)
def the_server_stays_well(server: ServedProcess) -> Iterator[None]:
    process = psutil.Process(server.process.pid)
    before, began = process.memory_info().rss, time.monotonic()
    yield
    assert time.monotonic() - began < SECONDS
    assert process.memory_info().rss - before < BYTES
    status, answer = ask(server, "/v2/models/m/infer", infer([1, 2]))
    assert (status, answer["outputs"][0]["data"]) == (200, [6.0, 6.0])


def ask(
    server: ServedProcess, path: str, body: Any = b"", headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, Any]:
    """Status and JSON of an answer; the path is sent as it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.inference).netloc, timeout=SECONDS)
    connection._validate_path = lambda path: None  # type: ignore[attr-defined]
    try:
        connection.request(method, path, raw, headers or {})
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    return reply.status, json.loads(content) if content else None


def refused(found: tuple[int, Any]) -> None:
    status, answer = found
    assert 400 <= status < 500, found
    assert answer and (answer.get("error") or answer.get("message")), found


def infer(shape: Any, **values: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [3, 3]} | values]}


def binary(server: ServedProcess, model: str, inputs: list[dict[str, Any]], data: bytes) -> tuple[int, Any]:
    head = json.dumps({"inputs": inputs}).encode()
    return ask(server, f"/v2/models/{model}/infer", head + data, {"Inference-Header-Content-Length": str(len(head))})


@pytest.mark.parametrize("shape", [[2**32, 2**32], [2**63 - 1, 2], [2**31, 2**31, 4], [2**62] * 60, [-1, 2], [1] * 100_000])
def test_shape_products_that_overflow(server: ServedProcess, shape: list[int]) -> None:
    refused(ask(server, "/v2/models/m/infer", infer(shape)))
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    refused(binary(server, "m", [tensor], bytes(8)))


@pytest.mark.parametrize(("said", "sent"), [(8, 4), (4, 8), (0, 8), (2**40, 8), (2**63, 8), (2**64, 8), (-8, 8)])
def test_byte_counts_that_lie(server: ServedProcess, said: int, sent: int) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": said}}
    refused(binary(server, "m", [tensor], bytes(sent)))


@pytest.mark.parametrize("length", ["9999999", "-1", "1e3", "0x10", "18446744073709551616"])
def test_header_lengths_that_lie(server: ServedProcess, length: str) -> None:
    refused(ask(server, "/v2/models/m/infer", infer([1, 2]), {"Inference-Header-Content-Length": length}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<I", 2**32 - 1) + b"ab",
        struct.pack("<I", 1) + b"a",
        struct.pack("<I1sI1sI1s", 1, b"a", 1, b"b", 1, b"c"),
        struct.pack("<I1sI", 1, b"a", 5) + b"abc",
        b"\0\0\0",
        b"\0\0\0\0" * 100_000,
    ],
)
def test_strings_with_wrong_lengths(server: ServedProcess, data: bytes) -> None:
    size = {"binary_data_size": len(data)}
    tensor = {"name": "words", "shape": [1, 2], "datatype": "BYTES", "parameters": size}
    refused(binary(server, "strings", [tensor], data))


def test_duplicate_names(server: ServedProcess) -> None:
    tensor = infer([1, 2])["inputs"][0]
    refused(ask(server, "/v2/models/m/infer", {"inputs": [tensor] * 2}))
    refused(ask(server, "/v2/models/m/infer", {"inputs": [tensor] * 10_000}))


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/m/generate", "/v2/repository/index", "/predictions/m"])
@pytest.mark.parametrize("body", [b"[" * DEEP, b'{"a":' * DEEP, b'{"inputs":' + b"[" * DEEP + b"]" * DEEP + b"}"])
def test_deep_json(server: ServedProcess, path: str, body: bytes) -> None:
    refused(ask(server, path, body, {"Content-Type": "application/json"}))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bombs(server: ServedProcess, encoding: str) -> None:
    plain = bytes(1 << 20) * 100
    bomb = gzip.compress(plain, 6) if encoding == "gzip" else zlib.compress(plain, 6)
    assert len(bomb) < LIMIT
    status, answer = ask(server, "/v2/models/m/infer", bomb, {"Content-Encoding": encoding})
    assert (status, "expands" in answer["error"]) == (413, True)
    nested = gzip.compress(bomb)
    refused(ask(server, "/v2/models/m/infer", nested, {"Content-Encoding": "gzip"}))
    refused(ask(server, "/v2/models/m/infer", gzip.compress(b"") * 100_000, {"Content-Encoding": "gzip"}))


def test_a_million_chunks_of_one_byte(server: ServedProcess) -> None:
    address = parse_address(server.inference)
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Connection(address, timeout=SECONDS) as connection:
        connection.send(head)
        for _ in range(1000):
            connection.send(b"1\r\n \r\n" * 1000)
        connection.send(b"0\r\n\r\n")
        assert connection.read().status in (400, 413)
    assert ask(server, "/v2/models/m/infer", infer([1, 2]))[0] == 200


def test_a_body_that_is_too_long(server: ServedProcess) -> None:
    status, answer = ask(server, "/v2/models/m/infer", bytes(LIMIT + 1))
    assert status == 413 and "error" in answer


NAMES = [
    "..",
    "../m",
    "../../etc",
    "%2e%2e",
    "..%2f..%2fetc",
    "a%00b",
    "%00",
    "a%20b",
    "%20",
    "a%2fb",
    "%5c..",
    "~root",
    ".",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ["load", "unload"])
def test_names_that_would_leave_the_repository(server: ServedProcess, repository: Path, name: str, verb: str) -> None:
    refused(ask(server, f"/v2/repository/models/{name}/{verb}", b"{}"))
    parameters = {"config": OVERRIDE, "file:1/model.py": base64.b64encode(PYTHON_MODEL.encode()).decode()}
    refused(ask(server, f"/v2/repository/models/{name}/{verb}x", {"parameters": parameters}))
    if verb == "load":
        refused(ask(server, f"/v2/repository/models/{name}/load", {"parameters": parameters}))
    assert sorted(path.name for path in repository.iterdir()) == ["m", "strings"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", ["/v2/models/{}/infer", "/v2/models/m/versions/{}/infer", "/predictions/{}"])
def test_names_of_models_and_versions(server: ServedProcess, route: str, name: str) -> None:
    refused(ask(server, route.format(name), infer([1, 2])))


@pytest.mark.parametrize(
    "path", ["../model.py", "/etc/passwd", "1/../../model.py", "", "1//..//x", "a\0b", "1/" * 5000, "."]
)
def test_uploaded_files_that_would_leave_the_folder(server: ServedProcess, path: str) -> None:
    content = base64.b64encode(b"x").decode()
    refused(ask(server, "/v2/repository/models/m/load", {"parameters": {"config": OVERRIDE, f"file:{path}": content}}))


OUTPUT = {"name": "y", "data_type": "TYPE_FP32", "dims": [2]}


@pytest.mark.parametrize(
    "field",
    [
        {"default_model_filename": "../../m/1/model.py"},
        {"name": "../m"},
        {"cc_model_filenames": {"8.0": "/etc/passwd"}},
        {"output": [OUTPUT | {"label_filename": "/etc/passwd"}]},
        {"output": [OUTPUT | {"label_filename": ".."}]},
    ],
)
def test_names_in_configurations(server: ServedProcess, field: dict[str, Any]) -> None:
    config = {"backend": "python", "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}], "output": []} | field
    refused(ask(server, "/v2/repository/models/m/load", {"parameters": {"config": json.dumps(config)}}))


@pytest.mark.parametrize("key", ["../etc/passwd", "/../etc/passwd", "a/b", "..", ".", "", "a\0b", "/", "x" * 5000, " "])
def test_keys_of_shared_memory(server: ServedProcess, key: str) -> None:
    body = {"key": key, "offset": 0, "byte_size": 8}
    refused(ask(server, "/v2/systemsharedmemory/region/r/register", body))
    assert ask(server, "/v2/systemsharedmemory/status", method="GET") == (200, [])
