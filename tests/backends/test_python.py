"""Python models in real worker processes: what they see, how they answer, and how they fail."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.errors import InvalidRequest, LoadFailed, ModelFailed, WorkerDied
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes import broken_cuda
from jitney.tests.fakes.serving import LIMIT_S, Serving, serving, write_model

ACTS_CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] optional: true } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "Z" data_type: TYPE_FP32 dims: [ -1 ] } ]
parameters { key: "answer" value: { string_value: "42" } }
instance_group [ { kind: KIND_CPU } ]
"""
ACTS = """
import gc, json, os, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
import helpers
import json as stdlib_json
from . import neighbour

DIRECTORY_AT_IMPORT = pb_utils.get_model_dir()


class TritonPythonModel:
    def initialize(self, args):
        self.args, self.kept = args, []
        self.requests_counter = pb_utils.MetricFamily("acts", "how often", pb_utils.MetricFamily.COUNTER).Metric({"a": "b"})

    def execute(self, requests):
        whole = [json.loads(r.parameters()).get("whole") for r in requests]
        if any(whole):
            return getattr(self, "whole_" + next(filter(None, whole)))(requests)
        return [getattr(self, "do_" + json.loads(r.parameters()).get("do", "double"))(r) for r in requests]

    def x(self, request):
        return pb_utils.get_input_tensor_by_name(request, "X").as_numpy()

    def answer(self, **outputs):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])

    def do_double(self, request):
        return self.answer(Y=self.x(request) * 2)

    def do_both(self, request):
        return self.answer(Z=self.x(request), Y=self.x(request) * 2, UNDECLARED=self.x(request))

    def do_see(self, request):
        seen = {
            "args": self.args, "id": request.request_id(), "corr": request.correlation_id(), "flags": request.flags(),
            "timeout": request.timeout(), "parameters": json.loads(request.parameters()),
            "names": sorted(request.requested_output_names()), "cancelled": request.is_cancelled(),
            "trace": request.trace().get_context(), "inputs": [t.name() for t in request.inputs()],
            "missing": pb_utils.get_input_tensor_by_name(request, "NOPE"), "helper": helpers.NAME,
            "neighbour": neighbour.NAME, "module": type(self).__module__, "dir": DIRECTORY_AT_IMPORT,
            "pycache": os.path.exists(os.path.join(DIRECTORY_AT_IMPORT, "__pycache__")), "json": stdlib_json.__file__,
            "batch": list(self.x(request).shape) if request.inputs() else None,
        }
        return pb_utils.InferenceResponse([], parameters={"seen": json.dumps(seen)})

    def do_write_in_place(self, request):
        x = self.x(request)
        x[...] += 1
        return self.answer(Y=x)

    def do_error(self, request):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("no such row", pb_utils.TritonError.NOT_FOUND))

    def do_nothing(self, request):
        return None

    def do_nonsense(self, request):
        return {"Y": 1}

    def do_process(self, request):
        return self.answer(Y=np.array([[os.getpid()]], np.float32))

    def do_odd_text(self, request):
        raise ValueError("a \\ud800 b")

    def do_long_text(self, request):
        raise ValueError("x" * (70 << 20))

    def do_no_text(self, request):
        class Speechless(Exception):
            def __str__(self):
                raise SystemExit("no text")

        raise Speechless

    def do_bad_parameter(self, request):
        return pb_utils.InferenceResponse([], parameters={"x": object()})

    def do_sender(self, request):
        request.get_response_sender().send(self.do_double(request), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def do_sender_and_return(self, request):
        request.get_response_sender().send(self.do_double(request))
        return self.answer(Y=self.x(request) * 100)

    def do_twice(self, request):
        sender, texts = request.get_response_sender(), []
        for attempt in (
            lambda: sender.send(flags=1), lambda: sender.send(), lambda: sender.send(flags=7), lambda: sender.send("text"),
            lambda: sender.send(self.do_double(request)), lambda: sender.send(self.do_double(request)),
            lambda: sender.send(flags=1), lambda: sender.send(flags=1),
        ):
            try:
                attempt()
                texts.append("fine")
            except pb_utils.TritonModelException as error:
                texts.append(str(error))
        with open(json.loads(request.parameters())["file"], "w") as file:
            json.dump(texts, file)

    def do_later(self, request):
        sender, x = request.get_response_sender(), self.x(request).copy()
        until = json.loads(request.parameters())["until"]

        def wait():
            while not os.path.exists(until):
                time.sleep(0.005)
            sender.send(self.answer(Y=x * 3))

        threading.Thread(target=wait).start()

    def do_let_go(self, request):
        request.get_response_sender()

    def do_metric(self, request):
        self.requests_counter.increment(2)
        return self.answer(Y=np.array([[self.requests_counter.value()]], np.float32))

    def do_other(self, request):
        wanted = json.loads(request.parameters())
        other = pb_utils.InferenceRequest(
            model_name=wanted["of"], requested_output_names=["Y"], inputs=request.inputs(), request_id="inner",
            parameters={"do": wanted.get("inner", "double")}, timeout=wanted.get("timeout", 0), correlation_id=9, flags=3)
        response = other.exec()
        if response.has_error():
            return pb_utils.InferenceResponse(error=response.error())
        return pb_utils.InferenceResponse(response.output_tensors(), parameters=json.loads(response.parameters()))

    def do_control(self, request):
        ready = pb_utils.is_model_ready("spare")
        pb_utils.load_model("spare")
        after = pb_utils.is_model_ready("spare", "1")
        pb_utils.unload_model("spare")
        return pb_utils.InferenceResponse([], parameters={"before": ready, "after": after})

    def whole_raise(self, requests):
        raise ValueError("whole batch")

    def whole_few(self, requests):
        return []

    def whole_text(self, requests):
        return "answer"

    def whole_items(self, requests):
        return [7] * len(requests)

    def whole_wordless(self, requests):
        assert not requests

    def whole_nothing(self, requests):
        return None

    def whole_exit(self, requests):
        os._exit(3)

    def finalize(self):
        with open(os.path.join(self.args["model_repository"], "finalized"), "w") as file:
            file.write("yes")
"""

STREAM_CONFIG = """
backend: "python" max_batch_size: 0
input [ { name: "N" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]
model_transaction_policy { decoupled: true }
instance_group [ { kind: KIND_CPU } ]
"""
STREAM = """
import json, os, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils


def value(n):
    return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([n], np.int32))])


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            do = json.loads(request.parameters()).get("do", "count")
            if do == "return":
                return [value(1)]
            if do == "raise":
                request.get_response_sender().send(value(0))
                raise RuntimeError("after one")
            if do != "ignore":
                sender = request.get_response_sender()
                count = int(pb_utils.get_input_tensor_by_name(request, "N").as_numpy()[0])
                threading.Thread(target=getattr(self, do), args=(sender, count, json.loads(request.parameters()))).start()

    def count(self, sender, count, _):
        for n in range(count):
            sender.send(value(n))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def last_with_flag(self, sender, count, _):
        for n in range(count):
            sender.send(value(n), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if n == count - 1 else 0)

    def fail(self, sender, count, _):
        sender.send(value(0))
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("enough", pb_utils.TritonError.CANCELLED)))
        sender.send(value(1))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def forget(self, sender, count, _):
        sender.send(value(0))

    def until_cancelled(self, sender, count, parameters):
        n = 0
        while not sender.is_cancelled():
            sender.send(value(n))
            n += 1
            time.sleep(0.001)
        open(parameters["file"], "w").close()
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

ASYNC = """
import asyncio
import json
import os
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        if DECOUPLED:
            for request in requests:
                given = json.loads(request.parameters())
                if "exit" in given:
                    raise SystemExit("as asked")
                if "hold" in given:
                    while not os.path.exists(given["hold"]):
                        await asyncio.sleep(0.005)
                self.task = asyncio.get_running_loop().create_task(self.later(request))
            return None
        return await asyncio.gather(*(self.one(r) for r in requests))

    async def later(self, request):
        sender = request.get_response_sender()
        await asyncio.sleep(0.02)
        sender.send(await self.one(request))
        sender.send(flags=1)

    async def one(self, request):
        model = json.loads(request.parameters()).get("of", "stream")
        asked = [
            pb_utils.InferenceRequest(
                model_name=model, requested_output_names=["Y"], inputs=[pb_utils.Tensor("N", np.array([n], np.int32))])
            for n in (3, 4)
        ]
        streams = await asyncio.gather(*(each.async_exec(decoupled=True) for each in asked))
        lengths = []
        for stream in streams:
            responses = list(stream)
            if responses and responses[-1].has_error():
                return pb_utils.InferenceResponse(error=responses[-1].error())
            assert not responses[-1].output_tensors(), "the final flag came alone"
            assert list(stream) == responses, "a second round gives the same"
            lengths.append(len(responses) - 1)
        peeked = asked[0].exec(decoupled=True)
        next(peeked)
        peeked.cancel()
        both = asked[1].exec()
        assert both.has_error() and "exec(decoupled=True)" in both.error().message()
        return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array(lengths[:1], np.int32))])
"""
NAMES = ("acts", "stream", "async", "async_stream")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("repository")
    acts = write_model(folder, "acts", ACTS_CONFIG, ACTS, helpers="NAME = 'h'", neighbour="NAME = 'n'")
    (acts / "1" / "json.py").write_text("raise RuntimeError('the standard library comes first')\n")
    write_model(folder, "stream", STREAM_CONFIG, STREAM)
    write_model(folder, "spare", ACTS_CONFIG, ACTS, helpers="NAME = 'h'", neighbour="NAME = 'n'")
    write_model(folder, "async", STREAM_CONFIG.replace("true", "false"), ASYNC.replace("DECOUPLED", "False"))
    write_model(folder, "async_stream", STREAM_CONFIG, ASYNC.replace("DECOUPLED", "True"))
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Serving]:
    with serving(folder, *NAMES) as found:
        yield found


def x(*rows: float) -> list[Tensor]:
    return [Tensor.from_numpy("X", np.array(rows, np.float32).reshape(-1, 1))]


def n(count: int) -> list[Tensor]:
    return [Tensor.from_numpy("N", np.array([count], np.int32))]


def values(served: Serving, model: str, tensors: list[Tensor], **parameters: Any) -> dict[str, list[Any]]:
    (response,) = served.ask(model, tensors, **parameters)
    return {tensor.name: tensor.numpy().tolist() for tensor in response.tensors}


def refusal(served: Serving, model: str, tensors: list[Tensor], **parameters: Any) -> ModelFailed:
    with pytest.raises(ModelFailed) as caught:
        served.ask(model, tensors, **parameters)
    return caught.value


def test_a_request_keeps_its_own_arrays(served: Serving) -> None:
    assert values(served, "acts", x(1, 2, 3)) == {"Y": [[2], [4], [6]]}
    large = np.arange(300_000, dtype=np.float32).reshape(2, -1)
    (response,) = served.ask("acts", [Tensor.from_numpy("X", large)], do="write_in_place")
    np.testing.assert_array_equal(response.tensors[0].numpy(), large + 1)
    assert large[0, 0] == 0, "the model writes to its own copy"


def test_outputs_are_pruned_to_those_declared_and_wanted(served: Serving) -> None:
    assert values(served, "acts", x(1), do="both") == {"Z": [[1]], "Y": [[2]]}
    assert values(served, "acts", x(1), do="both", outputs=("Z",)) == {"Z": [[1]]}


def test_what_a_model_sees(served: Serving, folder: Path) -> None:
    parameters: dict[str, Any] = {
        "do": "see",
        "i": 3,
        "f": 1.5,
        "b": True,
        "triton_sequence_id": 7,
        "triton_flags": 3,
        "triton_timeout": 11,
    }
    (response,) = served.ask("acts", request_id="me", outputs=("Y",), **parameters)
    seen = json.loads(str(response.parameters["seen"]))
    assert seen["parameters"] == {"do": "see", "i": 3, "f": 1.5, "b": True}
    assert (seen["id"], seen["corr"], seen["flags"], seen["timeout"], seen["names"]) == ("me", 7, 3, 11, ["Y"])
    assert (seen["inputs"], seen["missing"], seen["cancelled"], seen["trace"]) == ([], None, False, None)
    assert (seen["helper"], seen["neighbour"], seen["module"]) == ("h", "n", "1.model")
    assert "acts" not in seen["json"], "a model's json.py hid Python's"
    assert seen["dir"] == str(folder / "acts" / "1")
    assert not seen["pycache"]
    args = seen["args"]
    assert json.loads(args.pop("model_config"))["parameters"] == {"answer": {"string_value": "42"}}
    assert args == {
        "model_instance_kind": "CPU",
        "model_instance_name": "acts_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(folder / "acts"),
        "model_version": "1",
        "model_name": "acts",
    }


def test_one_request_fails_alone(served: Serving) -> None:
    refused = refusal(served, "acts", x(1), do="error")
    assert (str(refused), refused.code, refused.by_model) == ("no such row", "NOT_FOUND", True)


@pytest.mark.parametrize(
    ("whole", "text"),
    [
        ("few", "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "),
        ("text", "Expected a list in the execute return, found type '<class 'str'>'."),
        ("items", "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'int'>'."),
        ("wordless", "AssertionError: <EMPTY MESSAGE>\n\nAt:\n"),
    ],
)
def test_a_wrong_return_fails_the_batch(served: Serving, whole: str, text: str) -> None:
    refused = str(refusal(served, "acts", x(1), whole=whole))
    assert refused.startswith(f"Failed to process the request(s) for model 'acts_0_0', message: {text}")


def test_an_exception_names_the_models_own_frames(served: Serving, folder: Path) -> None:
    text = str(refusal(served, "acts", x(1), whole="raise"))
    head, _, frames = text.partition("\n\nAt:\n")
    assert head == "Failed to process the request(s) for model 'acts_0_0', message: ValueError: whole batch"
    lines = frames.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["whole_raise", "execute"]
    assert all(line.startswith(f"  {folder}/acts/1/model.py(") for line in lines)


def test_an_exception_with_any_text_is_told_and_the_worker_lives(served: Serving) -> None:
    first = values(served, "acts", x(1), do="process")
    for do, text in (("odd_text", r"a \ud800 b"), ("long_text", "characters left out"), ("no_text", "cannot be had")):
        assert text in str(refusal(served, "acts", x(1), do=do))
    assert values(served, "acts", x(1), do="process") == first


@pytest.mark.parametrize(
    ("do", "text"),
    [
        ({"do": "nothing"}, "did not take"),
        ({"whole": "nothing"}, "did not take"),
        ({"do": "nonsense"}, "found type '<class 'dict'>'"),
        ({"do": "bad_parameter"}, "Expect parameters values to have type bool/int/str, found type <class 'object'>"),
        ({"do": "let_go"}, "let the request go"),
    ],
)
def test_a_request_without_an_answer_gets_an_error(served: Serving, do: dict[str, str], text: str) -> None:
    assert text in str(refusal(served, "acts", x(1), **do))
    assert values(served, "acts", x(1)) == {"Y": [[2]]}


def test_a_response_sender_answers_once(served: Serving, tmp_path: Path) -> None:
    assert values(served, "acts", x(1), do="sender") == {"Y": [[2]]}
    assert values(served, "acts", x(1), do="sender_and_return") == {"Y": [[2]]}
    file = tmp_path / "texts"
    assert values(served, "acts", x(1), do="twice", file=str(file)) == {"Y": [[2]]}
    texts = json.loads(file.read_text())
    assert "complete final before sending a response" in texts[0]
    assert "must be provided when the response flags is set to zero" in texts[1]
    assert "Unsupported flag" in texts[2]
    assert "takes an InferenceResponse, got str" in texts[3]
    assert texts[4] == "fine"
    assert "cannot send more than one response" in texts[5]
    assert texts[6] == "fine"
    assert "has been closed" in texts[7]


def test_a_sender_may_answer_after_execute_returned(served: Serving, tmp_path: Path) -> None:
    until = tmp_path / "go"
    call = served.dataplane.infer("acts", None, Request(tensors=x(5), parameters={"do": "later", "until": str(until)}))
    until.touch()
    assert call.result(LIMIT_S).tensors[0].numpy().tolist() == [[15]]


def test_metrics_reach_the_server(served: Serving) -> None:
    assert values(served, "acts", x(1), do="metric") == {"Y": [[2]]}
    sent = [payload for kind, payload in served.events if kind == "metric" and payload["name"] == "acts"]
    assert all((each["kind"], each["labels"]) == ("counter", {"a": "b"}) for each in sent)
    assert [(each["verb"], each["value"]) for each in sent] == [("declare", 0), ("increment", 2)]


def test_a_model_asks_another(served: Serving) -> None:
    assert values(served, "async", n(0)) == {"Y": [3]}
    refused = refusal(served, "async", n(0), of="nowhere")
    assert "nowhere" in str(refused)
    refused = refusal(served, "acts", x(1), do="other", of="nowhere")
    assert refused.code == "INTERNAL", "the code of another model's error is lost, as in Triton"


LATE = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([[r.timeout()]], np.float32))]) for r in requests]
"""


def test_the_timeout_of_a_request_to_another_model_is_for_that_model_to_keep(folder: Path, tmp_path: Path) -> None:
    """In Triton it is what the other's queue may make of it, and bounds no answer."""
    shutil.copytree(folder / "acts", tmp_path / "acts")
    write_model(tmp_path, "late", ACTS_CONFIG, LATE)
    with serving(tmp_path, "acts", "late") as served:
        assert values(served, "acts", x(1), do="other", of="late", timeout=1000) == {"Y": [[1000]]}


def test_models_are_loaded_and_unloaded_by_a_model(served: Serving) -> None:
    (response,) = served.ask("acts", x(1), do="control")
    assert response.parameters == {"before": False, "after": True}


def stream(served: Serving, count: int, **parameters: Any) -> list[Any]:
    return [r.tensors[0].numpy().tolist() for r in served.ask("stream", n(count), **parameters) if r.tensors]


def test_a_decoupled_model_answers_any_number_of_times(served: Serving) -> None:
    for count in (0, 1, 5):
        assert stream(served, count) == [[k] for k in range(count)]
    assert stream(served, 2, do="last_with_flag") == [[0], [1]]


def test_an_async_decoupled_model_answers_after_execute_returned(served: Serving) -> None:
    first, *rest = served.ask("async_stream", n(0))
    assert first.tensors[0].numpy().tolist() == [3]
    assert [response.tensors for response in rest] == [[]]


def test_nobody_waits_for_the_coroutine_of_a_decoupled_model(served: Serving, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(served.ask, "async_stream", n(0), hold=str(go))
        first, *_ = served.ask("async_stream", n(0))
        assert not held.done()
        assert "SystemExit: as asked" in str(refusal(served, "async_stream", n(0), exit=True))
        go.write_text("")
        assert held.result(30)[0].tensors[0].numpy().tolist() == first.tensors[0].numpy().tolist() == [3]


@pytest.mark.parametrize(
    ("do", "text"),
    [
        ("raise", "RuntimeError: after one"),
        ("return", "must return None"),
        ("forget", "let the request go"),
        ("ignore", "let the request go"),
    ],
)
def test_a_stream_that_fails(served: Serving, do: str, text: str) -> None:
    assert text in str(refusal(served, "stream", n(1), do=do))
    assert stream(served, 2) == [[0], [1]]


def test_a_stream_goes_on_after_an_error_that_the_model_sends(served: Serving) -> None:
    given = served.ask("stream", n(0), do="fail")
    assert [response.error and (response.error.message, response.error.code) for response in given] == [
        None,
        ("enough", "CANCELLED"),
        None,
        None,
    ]
    assert [response.tensors[0].numpy().tolist() for response in given if response.tensors] == [[0], [1]]


def test_a_stream_learns_that_its_client_left(served: Serving, tmp_path: Path) -> None:
    file = tmp_path / "left"
    parameters = {"do": "until_cancelled", "file": str(file)}
    call = served.dataplane.infer("stream", None, Request(tensors=n(1), parameters=parameters))
    call.result(LIMIT_S)
    call.cancel()
    deadline = time.monotonic() + LIMIT_S
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_finalize_runs_at_the_end(folder: Path) -> None:
    with serving(folder, "spare"):
        pass
    assert (folder / "spare" / "finalized").read_text() == "yes"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1", "expected a class TritonPythonModel"),
        ("class TritonPythonModel:\n    pass", "has no method execute"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        (
            "class TritonPythonModel:\n    def initialize(self, args): raise OSError('no weights')\n    execute = print",
            "OSError: no weights",
        ),
        (r"raise ValueError('a \ud800 b')", r"ValueError: a \\ud800 b"),
        ("raise ValueError('x' * (70 << 20))", "ValueError: xxx.* characters left out"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, source: str, text: str) -> None:
    write_model(tmp_path, "broken", ACTS_CONFIG, source)
    with serving(tmp_path) as served, pytest.raises(LoadFailed, match=text):
        served.load("broken")


def test_another_file_name(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "other", 'default_model_filename: "main.py"' + STREAM_CONFIG, "raise SystemExit")
    (directory / "1" / "main.py").write_text(STREAM)
    with serving(tmp_path, "other") as served:
        assert len(served.ask("other", n(2))) == 3


def test_reserved_names_cannot_come_from_clients(served: Serving) -> None:
    with pytest.raises(InvalidRequest, match="NOPE"):
        served.ask("acts", [Tensor.from_numpy("NOPE", np.zeros((1, 1), np.float32))])
    body = {"inputs": [], "parameters": {"triton_sequence_id": 7}}
    assert served.http.simulate_post("/v2/models/acts/infer", json=body).status_code == 400


WARM = """
import json, os
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.file = os.path.join(args["model_repository"], "seen")

    def execute(self, requests):
        with open(self.file, "a") as file:
            file.write(f"{len(requests)} {requests[0].inputs()[0].as_numpy().tolist()};")
        if FAIL:
            raise ValueError("cold")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
"""
WARMUP = """
model_warmup [ { name: "w" batch_size: 2 count: 2
  inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } } ]
"""


def test_a_model_is_warmed_up_before_it_is_ready(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "warm", ACTS_CONFIG + WARMUP, WARM.replace("FAIL", "False"))
    write_model(tmp_path, "cold", ACTS_CONFIG + WARMUP, WARM.replace("FAIL", "True"))
    with serving(tmp_path, "warm") as served:
        assert (directory / "seen").read_text() == "2 [[0.0]];" * 2
        with pytest.raises(LoadFailed, match=r"warm-up 'w' of model 'cold' failed: .*ValueError: cold"):
            served.load("cold")


LOSES_CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
LOSES = (
    broken_cuda.SOURCE
    + """
import os, threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        wanted = int(pb_utils.get_input_tensor_by_name(requests[0], "X").as_numpy()[0, 0])
        if wanted == 1:
            lose()
            raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
        if wanted == 2:
            lose()
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError("caught by the model")) for _ in requests]
        if wanted == 3:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        pid = np.array([[os.getpid()]], np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", pid)]) for _ in requests]
"""
)


def test_a_model_whose_cuda_context_is_lost_gets_a_new_worker(tmp_path: Path) -> None:
    """Also where the model caught what CUDA raised and answered with an error of its own; other errors keep the worker."""
    write_model(tmp_path, "loses", LOSES_CONFIG, LOSES)

    def ask(value: float) -> float:
        (answer,) = server.ask("loses", [Tensor.from_numpy("X", np.array([[value]], np.float32))])
        return float(answer.tensors[0].numpy()[0, 0])

    def ask_the_next(value: float) -> float:
        try:
            return ask(value)
        except WorkerDied:  # the one that was about to end had taken it
            return ask(value)

    with serving(tmp_path, "loses") as server:
        first = ask(0)
        with pytest.raises(ModelFailed, match="CUBLAS_STATUS_NOT_SUPPORTED"):
            ask(3)
        assert ask(0) == first
        with pytest.raises(ModelFailed, match="CUBLAS_STATUS_EXECUTION_FAILED"):
            ask(1)
        second = ask_the_next(0)
        assert second != first
        with pytest.raises(ModelFailed, match="caught by the model"):
            ask(2)
        assert ask_the_next(0) not in (first, second)


LOSES_LATER = (
    broken_cuda.SOURCE
    + """
import os, threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request, request.get_response_sender())).start()

    def answer(self, request, sender):
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0]:
            threading.Event().wait(0.3)  # execute has long returned
            lose()
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("caught by the model")), flags=final)
        else:
            pid = np.array([[os.getpid()]], np.float32)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", pid)]), flags=final)
"""
)


def test_a_decoupled_model_that_answers_later_gets_a_new_worker_too(tmp_path: Path) -> None:
    """The worker ends with the answer that told of it, and not with the next request."""
    write_model(tmp_path, "later", LOSES_CONFIG + "model_transaction_policy { decoupled: true }", LOSES_LATER)

    def ask(value: float) -> float:
        answer, *_ = server.ask("later", [Tensor.from_numpy("X", np.array([[value]], np.float32))])
        return float(answer.tensors[0].numpy()[0, 0]) if answer.error is None else -1.0

    with serving(tmp_path, "later") as server:
        first = ask(0)
        try:
            assert ask(1) == -1.0
        except (ModelFailed, WorkerDied):
            pass
        until = time.monotonic() + LIMIT_S
        while any(worker.pid == first for worker in server.dataplane.describe("later")[0].workers):
            assert time.monotonic() < until, "nothing but the error has told that the context is lost"
            time.sleep(0.05)
        while True:
            try:
                assert ask(0) != first
                break
            except WorkerDied:
                assert time.monotonic() < until


SUMS = """
import json, os
import triton_python_backend_utils as pb_utils
import of_the_backend, of_the_version


class TritonPythonModel:
    def initialize(self, args):
        with open(os.path.join(pb_utils.get_model_dir(), "model.json")) as file:
            self.sign = json.load(file)["sign"]
        self.seen = [__name__, of_the_backend.NAME, of_the_version.NAME, os.path.basename(args["model_repository"])]

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", self.x(r) * self.sign)], parameters={"seen": str(self.seen)})
                for r in requests]

    def x(self, request):
        return pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
"""


def test_models_of_one_python_based_backend(tmp_path: Path) -> None:
    backend = tmp_path / "backends" / "sums"
    backend.mkdir(parents=True)
    (backend / "model.py").write_text(SUMS)
    (backend / "of_the_backend.py").write_text("NAME = 'backend'\n")
    config = ACTS_CONFIG.replace('"python"', '"sums"')
    for name, sign in (("plus", 1), ("minus", -1)):
        folder = write_model(tmp_path / "models", name, config, "raise SystemExit('not this one')\n")
        (folder / "1" / "model.json").write_text(json.dumps({"sign": sign}))
        (folder / "1" / "of_the_version.py").write_text(f"NAME = {name!r}\n")
    with serving(tmp_path / "models", "plus", "minus", backend_directory=tmp_path / "backends") as served:
        for name, sign in (("plus", 1), ("minus", -1)):
            [response] = served.ask(name, x(1, 2), outputs=("Y",))
            assert response.tensors[0].numpy().tolist() == [[sign], [2 * sign]]
            assert response.parameters["seen"] == str(["model", "backend", name, name])
        assert served.http.simulate_get("/v2/models/plus").json["platform"] == "sums"
