"""Whatever a Python model passes to pb_utils, in real workers: it is taken, or it raises in the model; no worker ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.errors import JitneyError
from jitney.core.request import Response
from jitney.core.tensor import Tensor
from jitney.tests.fakes.serving import Serving, serving, write_model

CONFIG = """
backend: "python" max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] optional: true } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
TARGET = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor(b"Y", r.inputs()[0].as_numpy() * 2)]) for r in requests]
"""
TAKES = """
import asyncio, json, os, sys
import c_python_backend_utils
import numpy as np
import triton_python_backend_utils as pb_utils

ODD = [
    None, True, 0, -1, 2**31, 2**63, 2**64, 2**70, 1.5, float("nan"), float("inf"), 3j, "", "x", "\\ud800", "e\\u0301", b"", b"x",
    b"\\xff", bytearray(b"y"), memoryview(b"z"), np.str_("s"), np.bytes_(b"t"), np.int64(7), np.uint8(3), np.float32(2),
    np.float64(2), np.bool_(True), np.datetime64("2020"), np.array(5), np.array([5]), np.array([1, 2]), np.array(["a"], object),
    np.zeros((2, 0)), np.zeros(2, [("f", "f4")]), [], [1], ["x"], [b"x"], [[1, [2]]], (), ("x",), {}, {"k": 1}, {"k": [1]},
    {"k": None}, {1: 2}, {b"k": "v"}, {"k": np.int64(1)}, {"k": 2**80}, {"triton_flags": "x"}, {("t",): 1}, set(), {"x"},
    object(), object, len, ValueError("v"), iter([1]), range(3), Ellipsis, pb_utils.TritonError, pb_utils.Tensor, pb_utils,
]
X = pb_utils.Tensor("X", np.array([1, 2], np.float32))


def sample(**other):
    wanted = {"request_id": "r", "correlation_id": 0, "inputs": [X], "requested_output_names": ["Y"], "model_name": "target",
              "model_version": -1, "flags": 0, "timeout": 0, "preferred_memory": pb_utils.PreferredMemory(0), "trace": None,
              "parameters": None}
    return pb_utils.InferenceRequest(**{**wanted, **other})


def attempts(request):
    # Every public function, method and argument of pb_utils with an odd value in its place.
    for odd in ODD:
        for name in ("request_id", "correlation_id", "inputs", "requested_output_names", "model_name", "model_version", "flags",
                     "timeout", "preferred_memory", "trace", "parameters"):
            yield lambda: sample(**{name: odd}).exec()
        yield lambda: sample(inputs=[odd]).exec()
        yield lambda: sample(inputs=[pb_utils.Tensor(odd, np.zeros(2, np.float32))]).exec()
        yield lambda: sample(inputs=[pb_utils.Tensor("X", odd)]).exec()
        yield lambda: sample(requested_output_names=[odd]).exec()
        yield lambda: list(sample().exec(odd)) if odd is True else sample().exec(odd)
        yield lambda: sample().set_flags(odd)
        yield lambda: sample().set_release_flags(odd)
        yield lambda: pb_utils.Tensor.from_dlpack(odd, np.zeros(2))
        yield lambda: pb_utils.Tensor.from_dlpack("X", odd)
        yield lambda: pb_utils.PreferredMemory(odd, odd)
        yield lambda: pb_utils.TritonError(odd, odd)
        yield lambda: pb_utils.TritonError(odd)
        for name in ("output_tensors", "error", "parameters"):
            yield lambda: pb_utils.InferenceResponse(**{name: odd})
        for name in ("load_model", "unload_model", "is_model_ready"):
            yield lambda: getattr(pb_utils, name)(odd)
        yield lambda: pb_utils.load_model("target", odd)
        yield lambda: pb_utils.load_model("no_such", files=odd)
        yield lambda: pb_utils.load_model("no_such", files={"file:1/model.py": odd})
        yield lambda: pb_utils.load_model("no_such", files={odd: b""})
        yield lambda: pb_utils.unload_model("no_such", odd)
        yield lambda: pb_utils.is_model_ready("target", odd)
        for name in ("log", "log_info", "log_warn", "log_error", "log_verbose"):
            yield lambda: getattr(pb_utils.Logger, name)(odd)
        yield lambda: pb_utils.Logger.log("odd", odd)
        family = pb_utils.MetricFamily
        yield lambda: family(odd, "d").Metric().increment(1)
        yield lambda: family("odd_text", odd).Metric().increment(1)
        yield lambda: family("odd_kind", "d", odd).Metric().increment(1)
        yield lambda: family("odd_labels", "d").Metric(odd).increment(1)
        yield lambda: family("odd_label", "d").Metric({odd: "v"}).increment(1)
        yield lambda: family("odd_value", "d").Metric({"k": odd}).increment(1)
        yield lambda: family("odd_buckets", "d", family.HISTOGRAM).Metric({}, odd).observe(1)
        yield lambda: family("odd_bucket", "d", family.HISTOGRAM).Metric({}, [odd]).observe(1)
        yield lambda: family("odd_count", "d").Metric().increment(odd)
        yield lambda: family("odd_gauge", "d", family.GAUGE).Metric().set(odd)
        yield lambda: family("odd_seen", "d", family.HISTOGRAM).Metric({}, [1]).observe(odd)
        for name in ("serialize_byte_tensor", "deserialize_bytes_tensor", "triton_string_to_numpy", "numpy_to_triton_type",
                     "triton_to_numpy_type", "using_decoupled_model_transaction_policy"):
            yield lambda: getattr(pb_utils, name)(odd)
        yield lambda: pb_utils.get_input_tensor_by_name(request, odd)
        yield lambda: pb_utils.get_input_tensor_by_name(odd, "X")
        yield lambda: pb_utils.get_output_tensor_by_name(pb_utils.InferenceResponse([X]), odd)
        yield lambda: pb_utils.get_input_config_by_name({"input": [{"name": "X"}]}, odd)


class TritonPythonModel:
    async def execute(self, requests):
        return [await self.one(request) for request in requests]

    async def one(self, request):
        do = json.loads(request.parameters())
        found = getattr(self, do["do"])(request, **do)
        if asyncio.iscoroutine(found):
            found = await found
        if isinstance(found, pb_utils.InferenceResponse):
            return found
        return pb_utils.InferenceResponse([], parameters={"found": json.dumps(found)})

    def fuzz(self, request, **_):
        tried = taken = 0
        for attempt in attempts(request):
            tried += 1
            try:
                attempt()
                taken += 1
            except Exception:
                pass
        return [tried, taken]

    def pid(self, request, **_):
        return os.getpid()

    def argv(self, request, **_):
        return sys.argv

    def evaluate(self, request, code, **_):
        try:
            return eval(code, globals(), {"request": request})
        except pb_utils.TritonModelException as error:
            return "TritonModelException: " + str(error)

    async def futures(self, request, **_):
        # Futures, as in Triton: they may be waited for with asyncio.wait, which takes no coroutines.
        done, _ = await asyncio.wait([sample(request_id=str(n)).async_exec() for n in range(3)])
        return [each.result().output_tensors()[0].as_numpy().tolist() for each in done]

    def respond(self, request, how, **_):
        text = "x" * (70 << 20)
        if how == "error":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))
        return pb_utils.InferenceResponse([], parameters={"k": text})

    def leave(self, request, **_):
        sys.exit(4)

    async def cancelled(self, request, **_):
        raise asyncio.CancelledError
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("repository")
    write_model(folder, "target", CONFIG, TARGET)
    write_model(folder, "takes", CONFIG, TAKES)
    with serving(folder, "target", "takes") as found:
        yield found


@pytest.fixture
def same_worker(served: Serving) -> Iterator[None]:
    """The test's calls are answered by one process."""
    before = found(served, do="pid")
    yield
    assert found(served, do="pid") == before


def ask(served: Serving, **parameters: Any) -> list[Response]:
    return served.ask("takes", [Tensor.from_numpy("X", np.array([1], np.float32))], **parameters)


def found(served: Serving, **parameters: Any) -> Any:
    (response,) = ask(served, **parameters)
    return json.loads(str(response.parameters["found"]))


@pytest.mark.usefixtures("same_worker")
def test_no_argument_ends_the_worker(served: Serving) -> None:
    tried, taken = found(served, do="fuzz")
    assert tried > 3000
    assert 0 < taken < tried


ASK = "sample(%s).exec().output_tensors()[0].as_numpy().tolist()"


@pytest.mark.parametrize(
    "arguments",
    [
        'model_name=b"target"',
        'model_name=np.array(["target"], object)[0]',
        'model_name=np.array([b"target"], object)[0]',
        'model_name=np.str_("target"), requested_output_names=[np.str_("Y")]',
        'model_name=np.bytes_(b"target"), requested_output_names=np.array([b"Y"], object)',
        'requested_output_names=[b"Y"]',
        'requested_output_names=("Y",)',
        'requested_output_names={"Y"}',
        'request_id=b"id", model_version=np.int64(1)',
        "model_version=np.array(1), timeout=np.uint32(10_000_000)",
        "timeout=2**64 - 1",
        'parameters={"k": np.str_("v"), "b": True, "i": -5}',
        'inputs=(pb_utils.Tensor(b"X", np.array([1, 2], np.float32)),)',
    ],
)
@pytest.mark.usefixtures("same_worker")
def test_names_and_numbers_are_taken_as_they_come(served: Serving, arguments: str) -> None:
    assert found(served, do="evaluate", code=ASK % arguments) == [2.0, 4.0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("model_name=None", "model_name must be a str (or bytes), got NoneType"),
        ("model_name=5", "model_name must be a str (or bytes), got int"),
        (r'model_name=b"\xff"', "model_name is not UTF-8 text"),
        ('requested_output_names="Y"', "requested_output_names must be a list, got str"),
        ("requested_output_names=[1]", "each of requested_output_names must be a str (or bytes), got int"),
        ("model_version=1.0", "model_version must be an integer, got float"),
        ("timeout=-1", "timeout must be between 0 and"),
        ("correlation_id=None", "Correlation ID must be integer or string"),
        ("inputs=X", "inputs must be a list, got Tensor"),
        ("inputs=[1]", "each of inputs must be a pb_utils.Tensor, got int"),
        ('parameters={"k": 0.5}', "Expect parameters values to have type bool/int/str, found type <class 'float'>"),
        ('parameters={"triton_flags": 1}', "names that begin with 'triton_' are the server's own"),
        ("trace=5", "trace must be an InferenceTrace"),
        ("preferred_memory=5", "preferred_memory must be a PreferredMemory"),
    ],
)
@pytest.mark.usefixtures("same_worker")
def test_what_is_not_taken_raises_in_the_model(served: Serving, arguments: str, text: str) -> None:
    said = found(served, do="evaluate", code=ASK % arguments)
    assert isinstance(said, str)
    assert said.startswith("TritonModelException: ")
    assert text in said


@pytest.mark.parametrize(
    "code",
    [
        'pb_utils.load_model("no_such")',
        'pb_utils.load_model(b"no_such", config=b"{}")',
        'pb_utils.load_model("target", config="no json")',
        'pb_utils.load_model("target", files={"1/model.py": b"x"})',
        'pb_utils.load_model("target", "{}", {"file:1/model.py": "x" * (70 << 20)})',
        'pb_utils.load_model("target", files=["x"])',
        "pb_utils.unload_model(np.float32(1), unload_dependents=np.bool_(True))",
        "pb_utils.unload_model(None)",
        "pb_utils.is_model_ready(5)",
    ],
)
@pytest.mark.usefixtures("same_worker")
def test_errors_of_model_control_are_exceptions_of_triton(served: Serving, code: str) -> None:
    said = found(served, do="evaluate", code=code)
    assert isinstance(said, str)
    assert said.startswith("TritonModelException: ")


@pytest.mark.usefixtures("same_worker")
def test_model_control_takes_bytes(served: Serving) -> None:
    assert found(served, do="evaluate", code='pb_utils.is_model_ready(b"target", np.str_("1"))') is True
    assert found(served, do="evaluate", code='pb_utils.is_model_ready("no_such")') is False


@pytest.mark.usefixtures("same_worker")
def test_calls_are_futures(served: Serving) -> None:
    assert found(served, do="futures") == [[2.0, 4.0]] * 3


def test_the_trace_has_no_context(served: Serving) -> None:
    assert found(served, do="evaluate", code="request.trace().get_context()") is None


def test_the_command_line_of_a_model_is_empty(served: Serving) -> None:
    assert found(served, do="argv") == [""]


def test_both_modules_hold_the_same_classes(served: Serving) -> None:
    same = (
        "[n for n in c_python_backend_utils.__all__ if getattr(pb_utils, n, None) is not getattr(c_python_backend_utils, n)]"
    )
    assert sorted(found(served, do="evaluate", code=same)) == [
        "COUNTER", "GAUGE", "HISTOGRAM", "MemoryType", "MetricKind", "ResponseIterator",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"do": "respond", "how": "huge"}, "parameters or its error text have"),
        ({"do": "respond", "how": "error"}, "parameters or its error text have"),
        ({"do": "leave"}, "SystemExit: 4"),
        ({"do": "cancelled"}, "CancelledError"),
    ],
)
@pytest.mark.usefixtures("same_worker")
def test_no_answer_ends_the_worker(served: Serving, parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(JitneyError, match=text):
        ask(served, **parameters)


ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
options = parser.parse_args()
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": b"X", "data_type": "TYPE_FP32", "dims": [pb_utils.np.int64(-1)]})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": (-1,)})
        config.set_max_batch_size(pb_utils.np.int32(0))
        return config

    def execute(self, requests):
        return [pb_utils.InferenceResponse([], parameters={"device": options.device}) for _ in requests]
"""


def test_a_model_that_parses_its_command_line_completes_and_loads(tmp_path: Path) -> None:
    write_model(tmp_path, "parses", 'backend: "python"', ARGPARSE)
    with serving(tmp_path, "parses") as served:
        (response,) = served.ask("parses", [Tensor.from_numpy("X", np.array([1], np.float32))])
        assert response.parameters == {"device": "cpu"}
