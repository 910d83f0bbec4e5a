"""Models that compute in this process, behind the dialect's real routes, in falcon's test client and over waitress."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import falcon
import falcon.testing
import numpy as np
import pytest

from jitney.core.errors import ModelFailed
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import FINAL_MARK, Failure, Request, Response
from jitney.core.tensor import NUMPY_DTYPES, Tensor
from jitney.server.http.engine.listener import Listener
from jitney.server.settings.addresses import Address
from jitney.tests.fakes.dataplane import FakeDataPlane, identity
from jitney.tests.fakes.kserve_app import kserve_app

LIMIT = 1 << 20
LABELS = ("plane", "car", "", "cat")
TYPES = (*NUMPY_DTYPES, "BYTES")


def config(name: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], **values: Any) -> ModelConfig:
    values = {"version": "1", "backend": "python"} | values
    return ModelConfig(name=name, inputs=tuple(inputs), outputs=tuple(outputs), config_json={"name": name}, **values)


def _scores(request: Request) -> Iterable[Response]:
    """Outputs its inputs, after errors that the value asks for."""
    values = request.tensors[0].numpy()
    if values.min() < 0:
        raise ModelFailed("value is negative", "INVALID_ARG", by_model=True)
    yield Response([Tensor.from_numpy("SCORES", values)])


def _one(number: int) -> Response:
    return Response([Tensor.from_numpy("OUT", np.array([number], np.int32))], final=False)


_ERROR = Response(error=Failure("not this one", "UNAVAILABLE", by_model=True), final=False)
_STREAMS = {-3: (_one(0), _ERROR, _one(2)), -4: (_ERROR,), -5: (Response(parameters={"p": 1}, final=False),)}


def _count(request: Request) -> Iterable[Response]:
    """As many responses as the input says, then the mark of the end; -1 fails, -2 fails after one response, -3 sends an error
    between two, -4 a lone error that is not the end, -5 a response without outputs."""
    wanted = int(request.tensors[0].numpy().reshape(-1)[0])
    for number in range(1 if wanted == -2 else wanted):
        yield _one(number)
    if wanted < -2:
        yield from _STREAMS[wanted]
    elif wanted < 0:
        raise ModelFailed("negative count", "INVALID_ARG", by_model=True)
    yield Response(parameters={FINAL_MARK: True})


def _text(request: Request) -> Iterable[Response]:
    (word,) = request.tensors[0].numpy().reshape(-1)
    text = word.decode() + "|" + ",".join(f"{name}={value}" for name, value in sorted(request.parameters.items()))
    yield Response([Tensor.from_numpy("text_output", np.array([[text.encode()]], object))])


@pytest.fixture
def dataplane() -> FakeDataPlane:
    plane = FakeDataPlane()
    fp32 = TensorSpec("INPUT0", "FP32", (-1,))
    plane.add(
        config("identity", [fp32], [TensorSpec("OUTPUT0", "FP32", (-1,))], max_batch_size=8), identity({"INPUT0": "OUTPUT0"})
    )
    every = [TensorSpec(f"IN_{name}", name, (-1,), optional=True) for name in TYPES]
    outputs = [TensorSpec(f"OUT_{name}", name, (-1,)) for name in TYPES]
    plane.add(config("all_types", every, outputs), identity({f"IN_{name}": f"OUT_{name}" for name in TYPES}))
    scores = TensorSpec("SCORES", "FP32", (4,), labels=LABELS)
    plane.add(config("scores", [TensorSpec("X", "FP32", (4,))], [scores], max_batch_size=4), _scores)
    count = [TensorSpec("N", "INT32", (1,))], [TensorSpec("OUT", "INT32", (1,))]
    plane.add(config("decoupled", *count, decoupled=True), _count)
    text = [TensorSpec("text_input", "BYTES", (1,))], [TensorSpec("text_output", "BYTES", (1,))]
    plane.add(config("textgen", *text, max_batch_size=4), _text)
    plane.add(config("stuck", [fp32], [TensorSpec("OUTPUT0", "FP32", (-1,))]), None)
    for version in ("1", "3"):
        fixed = [TensorSpec("INPUT0", "FP32", (1,))], [TensorSpec("OUTPUT0", "FP32", (1,))]
        plane.add(config("versions", *fixed, version=version), identity({"INPUT0": "OUTPUT0"}))
    return plane


@pytest.fixture
def app(dataplane: FakeDataPlane) -> falcon.App[falcon.Request, falcon.Response]:
    return kserve_app(dataplane, LIMIT)


@pytest.fixture
def client(app: falcon.App[falcon.Request, falcon.Response]) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(app)


def _refuse(path: str, error: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    body = json.dumps({"error": str(error.body)}).encode()
    return falcon.code_to_http_status(error.code), [("content-type", "application/json")], body


@pytest.fixture
def server(app: falcon.App[falcon.Request, falcon.Response]) -> Iterator[str]:
    """HOST:PORT of the same app behind a real listener."""
    address = Address("http", "127.0.0.1", 0)
    listener = Listener(app, address, name="kserve", threads=8, max_body=LIMIT, refuse=_refuse)
    listener.start()
    yield f"127.0.0.1:{listener.address.port}"
    listener.close(5)
