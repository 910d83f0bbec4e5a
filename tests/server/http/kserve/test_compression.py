"""Compressed requests and replies."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import falcon.testing
import pytest

from jitney.server.http.kserve.compression import choose, compress
from jitney.tests.server.http.kserve.messages import binary, entry, floats, post

Client = falcon.testing.TestClient
BODY = {"inputs": [entry("INPUT0", [1, 50], "FP32", data=[1.0] * 50)]}
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
UNPACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_requests_may_be_compressed(client: Client, encoding: str) -> None:
    plain = post(client, "identity", BODY)
    packed = PACKERS[encoding](json.dumps(BODY).encode())
    assert post(client, "identity", packed, {"Content-Encoding": encoding}).content == plain.content


def test_other_codings_are_501_and_name_what_is_taken(client: Client) -> None:
    reply = post(client, "identity", b"x", {"Content-Encoding": "br"})
    assert (reply.status_code, reply.json) == (501, {"error": "Unsupported compression type"})
    assert reply.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, ""), ("", ""), ("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", "gzip"), ("deflate,gzip", "deflate"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"), ("gzip;q=0", ""), ("GZIP", ""), ("br", ""), ("identity", ""), ("*", ""),
        ("identity;q=0.5, gzip", "gzip"), ("gzip;q=0.5, identity", ""), ("gzip;q=x", ""), ("br, deflate ; q=0.1", "deflate"),
    ],
)  # fmt: skip
def test_the_reply_takes_the_coding_with_the_highest_q(accept: str | None, chosen: str) -> None:
    assert choose(accept) == chosen


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_binary_replies_keep_the_length_of_their_plain_header(client: Client, encoding: str) -> None:
    body, headers = binary((entry("INPUT0", [1, 3], "FP32"), floats(1, 2, 3)), parameters={"binary_data_output": True})
    packed = PACKERS[encoding](body)
    reply = post(client, "identity", packed, headers | {"Content-Encoding": encoding, "Accept-Encoding": encoding})
    assert reply.headers["content-encoding"] == encoding
    plain = UNPACKERS[encoding](reply.content)
    size = int(reply.headers["inference-header-content-length"])
    assert json.loads(plain[:size])["outputs"][0]["shape"] == [1, 3]
    assert plain[size:] == floats(1, 2, 3)


def test_only_successful_inference_is_compressed(client: Client) -> None:
    accept = {"Accept-Encoding": "gzip"}
    assert "content-encoding" not in post(client, "identity", {"inputs": []}, accept).headers
    assert "content-encoding" not in client.simulate_get("/v2/models/identity", headers=accept).headers


@pytest.mark.parametrize("encoding", UNPACKERS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 511, 512, 4095, 16383, 32767, 32768, 100_000])
def test_bodies_of_any_size_are_read_back(encoding: str, size: int) -> None:
    body = bytes(number * number % 251 for number in range(size))
    packed = compress((body[: size // 3], memoryview(body)[size // 3 :]), encoding)
    assert UNPACKERS[encoding](packed) == body


def test_a_small_window_compresses_a_small_body_as_well_as_a_large_one() -> None:
    body = json.dumps({"outputs": [{"name": "y", "data": [1.5] * 300}]}).encode()
    assert len(compress((body,), "gzip")) <= len(gzip.compress(body, 1)) * 1.05
