"""With several front ends every answer is what it is with one: status, phrase, headers, body."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jitney.tests.fakes.frontends import House, opened_fronts
from jitney.tests.fakes.plane import LoadedPlane
from jitney.tests.fakes.raw_http import Answer, Connection

JSON = {"Content_Type": "application/json"}


@pytest.fixture(scope="module")
def one(plane: LoadedPlane) -> Iterator[House]:
    with opened_fronts(plane, front_ends=1, max_request_size=30_000_000) as opened:
        yield opened


def infer(data: Any = (1.0, 2.0), *, name: str = "x", shape: Any = None, datatype: str = "FP32", **more: Any) -> bytes:
    shape = [1, len(data)] if shape is None else shape
    return json.dumps(
        {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": list(data)}], **more}
    ).encode()


def binary(values: np.ndarray[Any, Any]) -> tuple[bytes, dict[str, str]]:
    """A binary request and its header."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": list(values.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": values.nbytes},
                }
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return head + values.tobytes(), {"Inference_Header_Content_Length": str(len(head))}


SMALL, LARGE = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4_000_000, dtype=np.float32).reshape(2, -1)
FORM = b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\nform\r\n--b--\r\n'

#: Method, path, body, headers.
REQUESTS: dict[str, tuple[str, str, bytes | None, dict[str, str]]] = {
    # what front ends serve themselves
    "infer": ("POST", "/v2/models/m/infer", infer(id="me"), {}),
    "infer of a version": ("POST", "/v2/models/m/versions/1/infer", infer(), {}),
    "binary": ("POST", "/v2/models/m/infer", *binary(SMALL)),
    "large binary": ("POST", "/v2/models/m/infer", *binary(LARGE)),
    "large JSON": ("POST", "/v2/models/m/infer", infer([1.5] * 30_000), {}),
    "compressed": ("POST", "/v2/models/m/infer", gzip.compress(infer()), {"Content_Encoding": "gzip"}),
    "compressed answer": ("POST", "/v2/models/m/infer", infer(), {"Accept_Encoding": "gzip"}),
    "raw": ("POST", "/v2/models/fixed/infer", SMALL[0, :2].tobytes(), {"Inference_Header_Content_Length": "0"}),
    "ensemble": ("POST", "/v2/models/chain/infer", infer([1.0] * 5000), {}),
    "cached": ("POST", "/v2/models/kept/infer", infer(), {}),
    "classification": (
        "POST", "/v2/models/m/infer", infer(outputs=[{"name": "y", "parameters": {"classification": 1}}]), {},
    ),
    "predict": ("POST", "/predictions/m", b"[[1, 2]]", JSON),
    "predict with PUT": ("PUT", "/predictions/m/1", b"[[1, 2]]", JSON),
    "predict with BREW": ("BREW", "/predictions/capitals", b"tea", {}),
    "predict with GET": ("GET", "/predictions/capitals", None, {}),
    "predict with HEAD": ("HEAD", "/predictions/capitals", None, {}),
    "options": ("OPTIONS", "/predictions/m", None, {}),
    "handler": ("POST", "/predictions/capitals", b"words", {}),
    "handler of a version": ("POST", "/predictions/capitals/1.0/rest/of/it?a=b", b"version", {}),
    "handler, form": ("POST", "/predictions/capitals", FORM, {"Content_Type": "multipart/form-data; boundary=b"}),
    "handler, large": ("POST", "/predictions/capitals", b"large " * 50_000, {}),
    "handler over KServe": ("POST", "/v2/models/capitals/infer", b'{"a": 1}', JSON),
    "KServe v1": ("POST", "/v1/models/capitals:predict", b"v1", {}),
    "stream": ("POST", "/predictions/words", b"one two three", {}),
    "status, phrase, headers": ("POST", "/predictions/manners", b"please", {}),
    # their refusals
    "no such model": ("POST", "/v2/models/nothing/infer", infer(), {}),
    "no such version": ("POST", "/v2/models/m/versions/9/infer", infer(), {}),
    "a version that is none": ("POST", "/v2/models/m/versions/x/infer", infer(), {}),
    "a version too large": ("POST", "/v2/models/m/versions/99999999999999999999/infer", infer(), {}),
    "wrong name": ("POST", "/v2/models/m/infer", infer(name="picture"), {}),
    "wrong type": ("POST", "/v2/models/m/infer", infer([1, 2], datatype="INT32", id="me"), {}),
    "wrong shape": ("POST", "/v2/models/fixed/infer", infer([1.0] * 3), {}),
    "too wide": ("POST", "/v2/models/m/infer", infer([1.0] * 9, shape=[9, 1], id="me"), {}),
    "broken JSON": ("POST", "/v2/models/m/infer", b'{"inputs": [', {}),
    "poisoned": ("POST", "/v2/models/m/infer", infer([-1.0, 1.0]), {}),
    "unknown region": (
        "POST",
        "/v2/models/m/infer",
        b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","parameters":{"shared_memory_region":"r",'
        b'"shared_memory_byte_size":4}}]}',
        {},
    ),
    "parameter too large": ("POST", "/v2/models/m/infer", infer(parameters={"big": 2**63}), {}),
    "unknown coding": ("POST", "/v2/models/m/infer", infer(), {"Content_Encoding": "br"}),
    "GET infer": ("GET", "/v2/models/m/infer", None, {}),
    "predict nothing": ("POST", "/predictions/nothing", b"x", {}),
    "predict no version": ("POST", "/predictions/m/9", b"x", {}),
    "predict bad JSON": ("POST", "/predictions/m", b"{broken", JSON),
    "bad escape": ("POST", "/predictions/m?a=%zz", b"[[1]]", JSON),
    "handler refuses": ("POST", "/predictions/manners", b"refuse", {}),
    "handler raises": ("POST", "/predictions/manners", b"raise", {}),
    "explain": ("POST", "/explanations/m", b"[[1, 2]]", JSON),
    "explain a handler": ("POST", "/explanations/capitals", b"why", {}),
    # what they relay
    "ping": ("GET", "/ping", None, {}),
    "live": ("GET", "/v2/health/live", None, {}),
    "ready": ("GET", "/v2/models/m/ready", None, {}),
    "not ready": ("GET", "/v2/models/nothing/ready", None, {}),
    "metadata": ("GET", "/v2/models/m", None, {}),
    "config": ("GET", "/v2/models/chain/config", None, {}),
    "index": ("POST", "/v2/repository/index", b"{}", {}),
    "index, broken": ("POST", "/v2/repository/index", b"{", {}),
    "generate": ("POST", "/v2/models/m/generate", b'{"x": [[1.0, 2.0]]}', {}),
    "generate, streamed": ("POST", "/v2/models/m/generate_stream", b'{"x": [[1.0, 2.0]]}', {}),
    "legacy, streamed": ("POST", "/words/predict", b"one two three", {}),
    "legacy": ("POST", "/capitals/predict?data=query", b"", {}),
    "SageMaker": ("POST", "/models/capitals/invoke", b"sage", {}),
    "invocations": ("POST", "/invocations?model_name=capitals", b"maker", {}),
    "description": ("GET", "/api-description", None, {}),
    "root": ("GET", "/", None, {}),
    "HEAD of ping": ("HEAD", "/ping", None, {}),
    "unknown path": ("GET", "/no/such/path?x=1", None, {}),
    "unknown v2": ("DELETE", "/v2/no", None, {}),
    "a slash too many": ("POST", "/v2/models/m/infer/", infer(), {}),
    "no model": ("POST", "/predictions//x", b"x", {}),
    "bad escape, relayed": ("GET", "/nothing%zz", None, {}),
    "expect": ("POST", "/models/capitals/invoke", b"sage", {"Expect": "100-continue"}),
}  # fmt: skip


def seen(answer: Answer) -> tuple[int, str, list[tuple[str, str]], bytes, list[bytes]]:
    """What a client sees, but for what is new with each request."""
    changing = ("date", "x-request-id")
    headers = sorted((name, "" if name.lower() in changing else value) for name, value in answer.headers)
    body = re.sub(rb'"(ns|count|last_inference)": ?\d+', b"", answer.body)
    return answer.status, answer.reason, headers, body, answer.chunks


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_the_same(one: House, several: House, name: str) -> None:
    method, path, body, headers = REQUESTS[name]
    expected = seen(one.ask(method, path, body, **headers))
    assert seen(several.ask(method, path, body, **headers)) == expected
    assert (
        name not in ("infer", "predict", "handler", "ping", "legacy", "stream", "ensemble", "generate") or expected[0] == 200
    )


@pytest.mark.parametrize("path", ["/predictions/capitals", "/models/capitals/invoke"])
def test_chunked_bodies_and_old_clients(one: House, several: House, path: str) -> None:
    """Served and relayed."""
    for head, body in (
        (b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
        (b"POST %b HTTP/1.0\r\nContent-Length: 3\r\n\r\n", b"abc"),
        (b"POST %b HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", b"abc"),
        (b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", b"abc"),
    ):
        answers = []
        for opened in (one, several):
            with Connection(opened.inference) as connection:
                connection.send(head % path.encode() + body)
                answer = connection.read()
                closes = (b"HTTP/1.0" in head and b"keep" not in head) or b"close" in head
                answers.append((seen(answer), connection.closed(2.0) if closes else None))
        assert answers[0] == answers[1]
        assert answers[0][0][3].startswith(b"ABC")


def test_a_body_that_is_announced_too_large_is_refused(one: House, several: House) -> None:
    answers = []
    for opened in (one, several):
        with Connection(opened.inference) as connection:
            connection.send(b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 30000001\r\n\r\n")
            answers.append(seen(connection.read()))
    assert answers[0] == answers[1]
    assert answers[0][0] == 413


def test_two_requests_on_one_connection_are_answered_in_turn(several: House) -> None:
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    infers = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    body = infer()
    with Connection(several.inference) as connection:
        for _ in range(3):
            connection.send(ping + infers % len(body) + body + ping)
            assert [connection.read().status for _ in range(3)] == [200, 200, 200]
