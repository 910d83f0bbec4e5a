"""Requests made to do harm: each is answered with a 4xx within bounds, and the next request is fine."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import falcon.testing
import pytest

from jitney.core.errors import InvalidRequest, PayloadTooLarge
from jitney.server.http.kserve.compression import decompress
from jitney.tests.server.http.kserve.messages import binary, entry, post

Client = falcon.testing.TestClient
FINE = {"inputs": [entry("INPUT0", [1, 1], "FP32", data=[1])]}
DEEP = 100_000


@pytest.fixture(autouse=True)
def the_next_request_is_fine(client: Client) -> Iterator[None]:
    yield
    assert post(client, "identity", FINE).status_code == 200


def refused(reply: falcon.testing.Result) -> None:
    assert 400 <= reply.status_code < 500, reply.text[:500]
    assert reply.json["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b'{"inputs":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"x":NaN,"inputs":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"x":' + b"1" * 100_000 + b',"y":NaN}',
        b'{"inputs":[{"name":"INPUT0","shape":[1,1],"datatype":"FP32","data":' + b"[" * DEEP + b"1" + b"]" * DEEP + b"}]}",
    ],
)
@pytest.mark.parametrize("path", ["models/identity/infer", "models/textgen/generate", "repository/index", "logging"])
def test_json_of_any_depth(client: Client, body: bytes, path: str) -> None:
    refused(client.simulate_post(f"/v2/{path}", body=body))


@pytest.mark.parametrize(
    "shape",
    [[2**31, 2**31], [2**32, 2**32], [2**63, 2], [2**64, 1], [1, -1], [-1, -3], [1.0, 1.0], ["1"], [None], [True], [1e3],
     [2**62] * 60, [1] * 100_000, [[1]], {"a": 1}, 3],
)  # fmt: skip
def test_shapes_of_any_kind(client: Client, shape: Any) -> None:
    for datatype in ("FP32", "BYTES"):
        name = "INPUT0" if datatype == "FP32" else "IN_BYTES"
        model = "identity" if datatype == "FP32" else "all_types"
        refused(post(client, model, {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": [1]}]}))
        document = {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": 4}}]}
        head = json.dumps(document).encode()
        refused(post(client, model, head + bytes(4), {"Inference-Header-Content-Length": str(len(head))}))


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-1", b"1e400", b"null", b'"3"', b"9" * 5000])
@pytest.mark.parametrize("field", ["shape", "binary_data_size", "priority", "timeout", "classification"])
def test_numbers_that_are_none(client: Client, field: str, literal: bytes) -> None:
    inputs: dict[str, Any] = {"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": [1]}
    document: dict[str, Any] = {"inputs": [inputs], "outputs": [{"name": "OUTPUT0", "parameters": {}}], "parameters": {}}
    if field == "shape":
        inputs["shape"] = [1, "X"]
    elif field == "binary_data_size":
        inputs = document["inputs"][0] = {**entry("INPUT0", [1, 1], "FP32"), "parameters": {field: "X"}}
    elif field == "classification":
        document["outputs"][0]["parameters"][field] = "X"
    else:
        document["parameters"][field] = "X"
    body = json.dumps(document).encode().replace(b'"X"', literal)
    refused(post(client, "identity", body, {"Inference-Header-Content-Length": str(len(body))}))


def test_not_a_number_in_integers(client: Client) -> None:
    body = b'{"inputs":[{"name":"IN_INT32","shape":[2],"datatype":"INT32","data":[NaN,1]}]}'
    refused(post(client, "all_types", body))


@pytest.mark.parametrize("size", [2**31, 2**63, 2**64 - 1, 5])
def test_byte_counts_that_lie(client: Client, size: int) -> None:
    inputs = [{**entry("INPUT0", [1, 1], "FP32"), "parameters": {"binary_data_size": size}}]
    head = json.dumps({"inputs": inputs}).encode()
    refused(post(client, "identity", head + b"1234", {"Inference-Header-Content-Length": str(len(head))}))


@pytest.mark.parametrize("data", [struct.pack("<I", 2**32 - 1), struct.pack("<I", 100) + b"abc", b"\0\0", bytes(4) * 3])
def test_strings_with_wrong_lengths(client: Client, data: bytes) -> None:
    refused(post(client, "all_types", *binary((entry("IN_BYTES", [2], "BYTES"), data))))


def test_names_that_come_twice_or_by_the_thousand(client: Client) -> None:
    one = entry("INPUT0", [1, 1], "FP32", data=[1])
    refused(post(client, "identity", {"inputs": [one, one]}))
    refused(post(client, "identity", {"inputs": [entry(f"N{n}", [1, 1], "FP32", data=[1]) for n in range(5000)]}))
    reply = post(client, "identity", {"inputs": [entry("N" * 500_000, [1, 1], "FP32", data=[1])]})
    refused(reply)
    assert len(reply.content) < 20_000


@pytest.mark.parametrize("name", ["..", "../x", "a b", "a\x00b", "%2e%2e", "a/../b", "é", "..%2f..%2fetc", ".", "x" * 5000])
def test_model_names_that_lead_elsewhere(client: Client, name: str) -> None:
    for path in (f"models/{name}/infer", f"repository/models/{name}/load", f"repository/models/{name}/unload"):
        refused(client.simulate_post(f"/v2/{path}", body=json.dumps(FINE)))


def test_surrogates_in_names_and_ids(client: Client) -> None:
    for body in (
        b'{"id":"\\ud800","inputs":[{"name":"NOPE","shape":[1,1],"datatype":"FP32","data":[NaN]}]}',
        b'{"inputs":[{"name":"\\ud800","shape":[1,1],"datatype":"FP32","data":[NaN]}]}',
        b'{"x":NaN,"inputs":[{"name":"IN_BYTES","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}',
        b'{"id":"\\uD800","inputs":[{"name":"IN_FP32","shape":[1],"datatype":"FP32","data":[NaN]}]}',
        b'{"x":NaN,"inputs":[{"name":"IN_FP32","shape":[1],"datatype":"FP32","data":[1]}],"parameters":{"p":"\\ud800"}}',
    ):
        refused(post(client, "all_types", body))


# -- compression ----------------------------------------------------------------------------------------------------------


def test_a_gzip_bomb_is_refused_within_bounds(client: Client) -> None:
    bomb = gzip.compress(gzip.compress(bytes(1 << 28), 9), 9)
    inner = gzip.decompress(bomb)
    tracemalloc.start()
    reply = post(client, "identity", inner, {"Content-Encoding": "gzip"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reply.status_code == 413
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "body",
    [b"", b"not compressed", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"junk", zlib.compress(b"{}")],
    ids=["empty", "plain", "truncated", "trailing", "zlib"],
)
def test_a_damaged_gzip_body_is_refused(client: Client, body: bytes) -> None:
    refused(post(client, "identity", body, {"Content-Encoding": "gzip"}))


def test_a_chain_of_empty_gzip_members_is_refused_early() -> None:
    with pytest.raises(InvalidRequest, match="more data follows"):
        decompress(gzip.compress(b"") * 10_000, "gzip", 1 << 20)
    assert decompress(gzip.compress(b"ab") + gzip.compress(b"c"), "gzip", 10) == b"abc"
    with pytest.raises(InvalidRequest, match="more data follows"):
        decompress(zlib.compress(b"ab") + zlib.compress(b"c"), "deflate", 10)


def test_the_cap_is_exact() -> None:
    assert decompress(gzip.compress(bytes(100)), "gzip", 100) == bytes(100)
    with pytest.raises(PayloadTooLarge):
        decompress(gzip.compress(bytes(101)), "gzip", 100)


# -- over a socket --------------------------------------------------------------------------------------------------------


def test_a_body_in_many_tiny_chunks(server: str) -> None:
    body = json.dumps(FINE).encode()
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"
    host, port = server.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        reply = http.client.HTTPResponse(sock)
        reply.begin()
        assert reply.status == 200
        assert json.loads(reply.read())["outputs"][0]["data"] == [1.0]


def test_a_body_over_the_servers_own_limit(server: str) -> None:
    connection = http.client.HTTPConnection(server, timeout=10)
    connection.request("POST", "/v2/models/identity/infer", body=bytes((1 << 20) + 1))
    assert connection.getresponse().status == 413
    connection.close()
