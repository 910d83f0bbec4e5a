"""KServe's infer by its plan: the same answer however the request arrives."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from jitney.core.errors import JitneyError, ModelFailed, QueueFull
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.http.kserve import infer_plan
from jitney.server.http.kserve.compression import compress
from jitney.tests.fakes.dataplane import FakeDataPlane
from jitney.tests.fakes.raw_http import Connection
from jitney.tests.server.http.kserve.messages import entry
from jitney.tests.server.http.test_plans import post, same

IN, OUT = (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),)


def doubled(request: Request) -> Iterable[Response]:
    array = request.tensors[0].numpy() * 2
    yield Response([Tensor.from_numpy("y", array)])


@pytest.fixture
def site(open_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A site whose data plane also has models with tensors."""
    site = open_site()
    tensors = FakeDataPlane()

    def add(name: str, run: Callable[[Request], Iterable[Response]], **values: Any) -> None:
        config = ModelConfig(name, "1", "python", max_batch_size=4, inputs=IN, outputs=OUT, **values)
        site.plane.add(name, None)
        site.plane.served[name] = {"1.0": type(site.plane.served[name]["1.0"])(config, None)}
        tensors.add(config, run)

    monkeypatch.setattr(site.plane, "infer", tensors.infer, raising=False)
    site.add = add
    add("double", doubled)
    return site


def infer(tensor: dict[str, Any], binary: bytes = b"", *headers: str, model: str = "double", **more: Any) -> bytes:
    text = json.dumps({"inputs": [tensor], **more}).encode()
    length = (f"Inference-Header-Content-Length: {len(text)}",) if binary else ()
    return post(f"/v2/models/{model}/infer", text + binary, "Content-Type: application/json", *length, *headers)


def let_go(site: Any) -> None:
    """A request's place is free again once its answer is out."""
    deadline = time.monotonic() + 5
    while site.web.admission.held and time.monotonic() < deadline:
        time.sleep(0.01)
    assert site.web.admission.held == 0


def test_json_in_and_out(site: Any) -> None:
    answer = same(site, infer(entry("x", [1, 2], "FP32", data=[1, 2]), id="7"))
    assert json.loads(answer.body)["outputs"][0]["data"] == [2, 4] and json.loads(answer.body)["id"] == "7"


def test_binary_tensors_in_and_out(site: Any) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    answer = same(site, infer(tensor, b"\0\0\x80\x3f\0\0\0\x40", parameters={"binary_data_output": True}))
    assert answer.body.endswith(b"\0\0\0\x40\0\0\x80\x40")
    assert int(answer.header("Inference-Header-Content-Length") or 0) == len(answer.body) - 8


def test_compressed_answers(site: Any) -> None:
    answer = same(site, infer(entry("x", [1, 2], "FP32", data=[1, 2]), b"", "Accept-Encoding: gzip"))
    assert answer.header("content-encoding") == "gzip"


def test_a_small_answer_is_compressed_where_it_is_sent(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most clients' libraries accept gzip unasked; another thread for each of their answers would cost half of the speed."""
    threads: dict[int, str] = {}

    def noting(pieces: Sequence[bytes], encoding: str) -> bytes:
        threads[len(pieces[0])] = threading.current_thread().name
        return compress(pieces, encoding)

    monkeypatch.setattr(infer_plan, "compress", noting)
    with Connection(site.web.address("inference")) as connection:
        for rows in (1, 2, 1000):
            site.add("many", lambda _: [Response([Tensor.from_numpy("y", np.ones((rows, 2), np.float32))])])  # noqa: B023
            connection.send(infer(entry("x", [1, 2], "FP32", data=[1, 2]), b"", "Accept-Encoding: gzip", model="many"))
            assert connection.read().status == 200
    one, two, large = (threads[size] for size in sorted(threads))
    assert one == two == "http-inference"  # the loop's
    assert large != one


@pytest.mark.parametrize(
    "tensor",
    [
        entry("x", [1, 3], "FP32", data=[1, 2, 3]),
        entry("z", [1, 2], "FP32", data=[1, 2]),
        entry("x", [1, 2], "INT32", data=[1, 2]),
        entry("x", [1, 2], "FP32", data=[1, "a"]),
        entry("x", [9, 2], "FP32", data=[0] * 18),
    ],
)
def test_what_does_not_fit_is_refused_alike(site: Any, tensor: dict[str, Any]) -> None:
    assert same(site, infer(tensor, id="bad")).status == 400
    let_go(site)


def test_malformed_json_is_refused_alike(site: Any) -> None:
    assert same(site, post("/v2/models/double/infer", b'{"inputs"', "Content-Type: application/json")).status == 400


def test_after_a_refusal_no_request_is_read_until_there_is_room(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise QueueFull("Exceeds maximum queue size")

    good, bad = infer(entry("x", [1, 2], "FP32", data=[1, 2])), post("/v2/models/double/infer", b"not even JSON")
    with Connection(site.address("inference")) as connection:

        def status(request: bytes) -> int:
            connection.send(request)
            return connection.read().status

        with monkeypatch.context() as while_full:
            while_full.setattr(site.plane, "infer", full)
            while_full.setattr(site.plane, "refuse_if_full", full, raising=False)
            assert [status(each) for each in (bad, good, bad, good)] == [400, 503, 503, 503]
        monkeypatch.setattr(site.plane, "refuse_if_full", lambda *_: None, raising=False)
        assert [status(each) for each in (bad, good, bad)] == [400, 200, 400]


@pytest.mark.parametrize("problem", [ModelFailed("boom"), ModelFailed("no", "UNAVAILABLE"), QueueFull("full")])
def test_failures_of_the_model_are_told_alike(site: Any, problem: JitneyError) -> None:
    def fail(_: Request) -> Iterable[Response]:
        raise problem

    site.add("fail", fail)
    assert same(site, infer(entry("x", [1, 2], "FP32", data=[1, 2]), model="fail")).status >= 400
    let_go(site)


def test_a_response_before_the_final_one_is_the_answer(site: Any) -> None:
    def in_two(request: Request) -> Iterable[Response]:
        yield Response([Tensor("y", "FP32", (1, 2), b"\0" * 8)], final=False)
        yield Response()

    site.add("two", in_two)
    answer = same(site, infer(entry("x", [1, 2], "FP32", data=[1, 2]), model="two"))
    assert json.loads(answer.body)["outputs"][0]["data"] == [0, 0]


def test_decoupled_models_are_refused(site: Any) -> None:
    site.add("decoupled", doubled, decoupled=True)
    assert same(site, infer(entry("x", [1, 2], "FP32", data=[1, 2]), model="decoupled")).status == 501
    let_go(site)


@pytest.mark.parametrize("headers", [(), ("Accept-Encoding: gzip",)], ids=["plain", "compressed"])
def test_a_full_server_says_so_alike(site: Any, monkeypatch: pytest.MonkeyPatch, headers: tuple[str, ...]) -> None:
    request = infer(entry("x", [1, 2], "FP32", data=[1, 2]), b"", *headers)
    assert same(site, request).status == 200
    monkeypatch.setattr(site.web.admission.waiting, "limit", 0)
    monkeypatch.setattr(site.web.admission.threads, "limit", 0)
    answer = same(site, request)
    assert answer.status == 503 and b"which is all it may hold" in answer.body
    let_go(site)
