"""Models that all tests of front ends share, and a web over them with one front end and with several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jitney.server.serving.deployment import Options
from jitney.server.serving.response_cache import ResponseCache
from jitney.tests.fakes.frontends import House, opened_fronts, plane_of
from jitney.tests.fakes.plane import LoadedPlane, doubling
from jitney.tests.fakes.serving import write_model
from jitney.tests.fakes.torchserve_server import CAPITALS, archive

#: Streams its body's words, slowly enough to be watched; "fail" as a word fails.
WORDS = """
import time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    *words, last = bytes(data[0].get("body") or b"").decode().split()
    for word in words:
        if word == "fail":
            raise ValueError("a word that fails")
        if word == "wait":
            time.sleep(0.5)
        send_intermediate_predict_response([word], context.request_ids, "part", 200, context)
    return [last]
"""
#: Sets what a handler may set of its answer.
MANNERS = """
from ts.utils.util import PredictionException

def handle(data, context):
    if data is None:
        return None
    body = bytes(data[0].get("body") or b"")
    if body == b"refuse":
        raise PredictionException("I would rather not", 418)
    if body == b"raise":
        raise KeyError("unforeseen")
    context.set_response_status(203, "All Mine", 0)
    context.set_response_header(0, "X-MiXed", "Value")
    context.set_response_header(0, "Set-Cookie", "a=b")
    return [body]
"""
ANSWERED = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedPlane]:
    """`m` doubles rows of any width, `slow` takes half a second, `kept` has its answers cached, `chain` is an ensemble."""
    folder = tmp_path_factory.mktemp("fronts")
    models, store = folder / "models", folder / "store"
    doubling(models, "m", "dynamic_batching { }", dims="-1")
    doubling(models, "fixed", "dynamic_batching { }")
    doubling(models, "slow", "dynamic_batching { }", seconds=0.5)
    doubling(models, "kept", "response_cache { enable: true }")
    write_model(
        models,
        "chain",
        """platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
ensemble_scheduling { step [
  { model_name: "m" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "between" } },
  { model_name: "m" model_version: -1 input_map { key: "x" value: "between" } output_map { key: "y" value: "y" } } ] }
""",
        "",
    )
    for name, source in (("capitals", CAPITALS), ("words", WORDS), ("manners", MANNERS)):
        archive(store, name, source)
    with plane_of(models, store, Options(cache=ResponseCache(1 << 20))) as plane:
        yield plane


@pytest.fixture(scope="module")
def several(plane: LoadedPlane) -> Iterator[House]:
    with opened_fronts(plane, max_request_size=30_000_000) as opened:
        yield opened
