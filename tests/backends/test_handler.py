"""HandlerBackend with handlers as users write them, each in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from jitney.server.repository.torchserve.model_yaml import plain
from jitney.tests.fakes import broken_cuda
from jitney.tests.fakes.handler_runner import Outcome, body, json_body, run

ECHO = "class Echo:\n    def handle(self, data, context):\n        return [{NAME} for row in data]\n"


@pytest.fixture
def handler(tmp_path: Path) -> Callable[..., Any]:
    """Writes the handler's source (and other files) and runs it."""

    def run_it(
        source: str,
        *batches: list[dict[str, Any]],
        entry: str = "my_handler.py",
        files: dict[str, str] | None = None,
        **spec: Any,
    ) -> Outcome:
        (tmp_path / "my_handler.py").write_text(source)
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)
        return run(tmp_path, entry, list(batches), **spec)

    return run_it


GENERALIZED_TEXT = '''
import logging
import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class Generalized(BaseHandler):
    """Preprocesses a list with mixed data/body, pads to one batch, answers a list."""

    def __init__(self):
        super(Generalized, self).__init__()
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        properties = ctx.system_properties
        self.device = torch.device("cuda:" + str(properties.get("gpu_id")) if torch.cuda.is_available() else "cpu")
        self.max_length = ctx.model_yaml_config["handler"]["max_length"]
        self.mapping = {0: "short", 1: "long"}
        self.initialized = True

    def preprocess(self, requests):
        ids, masks = None, None
        for row in requests:
            text = row.get("data")
            if text is None:
                text = row.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            logger.info("Received text: '%s'", text)
            row_ids = torch.zeros(1, self.max_length, dtype=torch.long)
            words = text.split()[: self.max_length]
            row_ids[0, : len(words)] = torch.tensor([len(word) for word in words])
            ids = row_ids if ids is None else torch.cat((ids, row_ids), 0)
            mask = (row_ids > 0).long()
            masks = mask if masks is None else torch.cat((masks, mask), 0)
        return ids.to(self.device), masks.to(self.device)

    def inference(self, batch):
        ids, masks = batch
        self.batch_size = ids.shape[0]
        return [self.mapping[int(row.sum() > 10)] for row in ids * masks]

    def postprocess(self, results):
        return [{"label": label, "of": self.batch_size} for label in results]
'''


def test_a_generalized_text_handler(handler: Callable[..., Any]) -> None:
    outcome = handler(
        GENERALIZED_TEXT,
        [body("a b", name="data"), body("extraordinary words", "text/plain"), json_body("c")],
        yaml={"handler": {"max_length": 4}},
        manifest={"model": {}},
    )
    assert outcome.bodies() == [{"label": label, "of": 3} for label in ("short", "long", "short")]
    assert "Received text: 'a b'" in outcome.output


MICRO = """
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler

class Micro(BaseHandler):
    def initialize(self, ctx):
        section = ctx.model_yaml_config["micro_batching"]
        self.handle = MicroBatching(self, micro_batch_size=section["micro_batch_size"])
        self.handle.parallelism = section["parallelism"]
        self.initialized = True
    def preprocess(self, data):
        return [int(row["body"]) for row in data]
    def inference(self, data):
        return [(len(data), number) for number in data]
    def postprocess(self, data):
        return [list(pair) for pair in data]
"""


def test_a_micro_batching_handler(handler: Callable[..., Any]) -> None:
    yaml = {"micro_batching": {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "inference": 1}}}
    outcome = handler(MICRO, [json_body(n) for n in range(5)], yaml=yaml)
    assert outcome.bodies() == [[2, 0], [2, 1], [2, 2], [2, 3], [1, 4]]


CLASSIFIER = """
from ts.torch_handler.image_classifier import ImageClassifier

class Mine(ImageClassifier):
    topk = 1
    def postprocess(self, data):
        import ts, os
        return [{"label": list(row)[0], "ts": ts.__version__, "cwd": os.getcwd()} for row in super().postprocess(data)]
"""


class Bright(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        light = x.mean((1, 2, 3)).unsqueeze(1)
        return torch.cat((light, -light), dim=1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_subclass_of_image_classifier_and_the_built_in_one(handler: Callable[..., Any], tmp_path: Path) -> None:
    import io

    from PIL import Image

    torch.jit.script(Bright()).save(str(tmp_path / "model.pt"))  # type: ignore[no-untyped-call]
    images = []
    for shade in (0, 255):
        out = io.BytesIO()
        Image.fromarray(np.full((300, 280, 3), shade, np.uint8)).save(out, "JPEG")
        images.append(body(out.getvalue(), name="data"))
    manifest = {"model": {"serializedFile": "model.pt", "modelName": "net"}}
    files = {"index_to_name.json": '{"0": "bright", "1": "dark"}'}
    own = handler(CLASSIFIER, images, manifest=manifest, files=files)
    assert own.bodies() == [{"label": label, "ts": "0.12.0", "cwd": str(tmp_path.resolve())} for label in ("dark", "bright")]
    built_in = handler(CLASSIFIER, images, [body("no image"), images[0]], manifest=manifest, entry="image_classifier")
    assert [next(iter(answer)) for answer in built_in.bodies()] == ["dark", "bright"]
    assert list(built_in.bodies()[0]) == ["dark", "bright"]
    assert built_in.bodies(1)[0] == "Prediction failed"
    assert built_in.bodies(1)[1] == built_in.bodies()[0]


class TestEntryPoints:
    def test_function_style_is_called_once_at_load(self, handler: Callable[..., Any]) -> None:
        source = (
            "calls = []\ndef serve(data, context):\n    calls.append(data is None)\n    return [calls for _ in data or []]\n"
        )
        assert handler(source, [body("x")], entry="folder/my_handler.py:serve").bodies() == [[True, False]]

    def test_a_class_can_be_named(self, handler: Callable[..., Any]) -> None:
        source = ECHO.replace("{NAME}", "'first'") + ECHO.replace("Echo", "Second").replace("{NAME}", "'second'")
        assert handler(source, [body("x")], entry="my_handler:Second").bodies() == [b"second"]

    @pytest.mark.parametrize(
        ("source", "entry", "error"),
        [
            ("class A: pass\nclass B: pass", "my_handler", "ValueError: Expected only one class in custom service code"),
            ("x = 1", "my_handler", "ValueError: Expected only one class in custom service code"),
            ("class A: pass", "my_handler", "ValueError: handler 'my_handler': class A has no method handle"),
            ("", "no_such_handler", "ImportError: {dir} holds no no_such_handler.py, and there is no built-in handler"),
            ("", "vllm_handler", "ImportError: ts.torch_handler.vllm_handler is not offered: it drives"),
            ("import nonsense_module", "my_handler", "ModuleNotFoundError: No module named 'nonsense_module'"),
            ("x = (", "my_handler.py", "SyntaxError"),
        ],
    )
    def test_refused(self, handler: Callable[..., Any], tmp_path: Path, source: str, entry: str, error: str) -> None:
        found = handler(source, entry=entry).error
        assert found.startswith(error.replace("{dir}", str(tmp_path.resolve())))

    def test_names_of_the_standard_library_and_modules_beside_the_handler(self, handler: Callable[..., Any]) -> None:
        files = {
            "inspect.py": "import helper_beside\n" + ECHO.replace("{NAME}", "helper_beside.NAME"),
            "helper_beside.py": "NAME = 'beside'",
        }
        assert handler("", [body("x")], entry="inspect.py", files=files).bodies() == [b"beside"]


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"envelope": "soap"}, "unknown service envelope 'soap'; expected one of body, json, kserve, kservev2"),
        ({"envelope": "json", "yaml": {"asyncCommunication": True}}, "cannot be combined"),
    ],
)
def test_what_is_not_supported_is_refused_at_load(handler: Callable[..., Any], spec: dict[str, Any], error: str) -> None:
    assert error in handler(ECHO.replace("{NAME}", "1"), **spec).error


ASYNC = """
import asyncio

class Async:
    async def initialize(self, context):
        self.waiting = asyncio.Event()
        self.loop = asyncio.get_running_loop()
    async def handle(self, data, context):
        assert asyncio.get_running_loop() is self.loop
        if len(data) > 1:
            return ["together"] * len(data)
        (row,) = data
        if row["body"] == "first":
            await asyncio.wait_for(self.waiting.wait(), 10)
        elif row["body"] == "bad":
            raise ValueError("bad")
        else:
            self.waiting.set()
        context.set_response_header(0, "x-id", context.get_request_id())
        return [row["body"]]
"""


def test_async_handlers_run_side_by_side(handler: Callable[..., Any]) -> None:
    requests = [body(text, "text/plain") for text in ("first", "bad", "second")]
    outcome = handler(ASYNC, requests, yaml={"asyncCommunication": True})
    assert outcome.bodies() == [b"first", "Prediction failed", b"second"]
    assert [response["index"] for response in outcome.batches[0]] == [1, 2, 0]  # "first" waits for the others
    assert {r["headers"].get("x-id") for r in outcome.batches[0] if not r["error"]} == {"id-0", "id-2"}


def test_a_coroutine_as_handle_is_awaited(handler: Callable[..., Any]) -> None:
    assert handler(ASYNC, [body("x"), body("y")]).bodies() == [b"together"] * 2


MIXED = """
from ts.service import PredictionException

class Mixed:
    calls = 0
    def handle(self, data, context):
        Mixed.calls += 1
        answers = {"teapot": PredictionException("short and stout", 418), "error": KeyError("k"), "object": object()}
        return [answers.get(row["body"], Mixed.calls) for row in data]
"""


ODD = """
class Odd:
    def handle(self, data, context):
        context.set_response_status(None)
        return ["\\ud800" if row["body"] == "half" else "whole" for row in data]
"""


def test_a_text_that_is_no_unicode_is_no_answer_and_no_status_is_200(handler: Callable[..., Any]) -> None:
    outcome = handler(ODD, [body(text, "text/plain") for text in ("half", "whole")])
    assert outcome.bodies() == ["Unsupported model output data type.", b"whole"]
    assert "surrogates" in outcome.batches[0][0]["error"]["detail"] and outcome.batches[0][1]["status"] == 200


def test_exceptions_as_elements_fail_their_request_only(handler: Callable[..., Any]) -> None:
    outcome = handler(MIXED, [body(text, "text/plain") for text in ("fine", "teapot", "error", "object")])
    assert outcome.bodies() == [1, "short and stout", "Prediction failed", "Unsupported model output data type."]
    assert outcome.batches[0][1]["error"]["status"] == 418


STREAM = """
from ts.protocol.otf_message_handler import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return
    send_intermediate_predict_response([row["body"] for row in data], context.request_ids, "ok", 200, context)
    if data[0]["body"] == "stop":
        send_intermediate_predict_response([""] * len(data), context.request_ids, "enough", 507, context)
    if data[0]["body"] == "raise":
        raise ValueError("after the first chunk")
    if data[0]["body"] == "object":
        send_intermediate_predict_response([object(), "more"], context.request_ids, "ok", 200, context)
    return ["end"] * len(data)
"""


def test_streams_that_fail_stay_failed(handler: Callable[..., Any]) -> None:
    batches = [[body(text, "text/plain"), body("b", "text/plain")] for text in ("stop", "raise", "object")]
    stop, raised, bad = handler(STREAM, *batches).batches
    assert [(r["index"], r["final"], r["error"] and r["error"]["message"]) for r in stop] == [
        (0, False, None),
        (1, False, None),
        (0, True, "enough"),
        (1, True, "enough"),
    ]
    assert stop[2]["error"]["status"] == 507
    assert [(r["final"], r["error"] and r["error"]["message"]) for r in raised[2:]] == [(True, "Prediction failed")] * 2
    assert [(r["index"], r["final"], r["body"]) for r in bad[2:]] == [(0, True, b""), (1, False, b"more"), (1, True, b"end")]


ENVELOPED = """
import base64
class Enveloped:
    def handle(self, data, context):
        return [row.decode() if isinstance(row, (bytes, bytearray)) else row for row in data]
"""


def test_json_envelope_makes_one_batch_of_all_instances(handler: Callable[..., Any]) -> None:
    requests = [json_body({"instances": [{"a": 1}, {"b64": "aGk="}]}), body('{"instances": [3]}')]
    outcome = handler(ENVELOPED, requests, envelope="json")
    assert [response["body"] for response in outcome.batches[0]] == [
        b'{"predictions": [{"a": 1}, "hi"]}',  # on one line
        b'{"predictions": [3]}',
    ]
    assert handler(ENVELOPED, [json_body({"x": 1})], envelope="json").bodies() == ["Prediction failed"]


ONE = """
def handle(data, context):
    return None if data is None else [repr(value) for value in data][:1]
"""


def test_json_envelope_decodes_values_of_instances_and_nothing_deeper(handler: Callable[..., Any]) -> None:
    inner = {"b64": "aGk="}
    outcome = handler(ONE, [json_body({"instances": [{"a": inner, "b": {"c": inner}, "d": 1}]})], envelope="json")
    assert outcome.bodies() == [{"predictions": [repr({"a": b"hi", "b": {"c": inner}, "d": 1})]}]


def test_json_envelope_gives_a_lone_request_what_there_is(handler: Callable[..., Any]) -> None:
    """As TorchServe does; the requests of a batch never get results of each other."""
    two, one = json_body({"instances": [1, 2]}), json_body({"instances": [3]})
    assert handler(ONE, [two], envelope="json").bodies() == [{"predictions": ["1"]}]
    assert handler(ONE, [two, one], envelope="json").bodies() == [{"predictions": ["1"]}, {"predictions": ["3"]}]


def test_body_envelope(handler: Callable[..., Any]) -> None:
    assert handler(ENVELOPED, [body("x", name="data"), json_body([1])], envelope="body").bodies() == [b"x", [1]]


@pytest.mark.parametrize("envelope", ["json", "kserve", "kservev2"])
def test_a_handler_that_returns_nothing_is_no_answer(handler: Callable[..., Any], envelope: str) -> None:
    """Envelopes pack results only; what the server says of None and [] is what it says without an envelope."""
    request = json_body({"instances": [1], "inputs": [{"name": "a", "shape": [1], "datatype": "INT8", "data": [1]}]})
    for returned, message in (("None", "Invalid model predict output"), ("[]", "number of batch response mismatched")):
        source = f"def handle(data, context):\n    return {returned}\n"
        assert handler(source, [request], envelope=envelope).bodies() == [message]


KSERVE_V2 = """
import numpy as np
class Inputs:
    def handle(self, data, context):
        if data[0]["name"] == "all":
            return [{"rows": data, "names": context.input_names}]
        return [{"got": row["data"]} if row["datatype"] == "BYTES" else 2 * np.array(row["data"]) for row in data]
"""


def test_kservev2_envelope(handler: Callable[..., Any]) -> None:
    inputs: list[dict[str, Any]] = [
        {"name": "a", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["text"]},
    ]
    manifest = {"model": {"modelName": "archived", "modelVersion": "2.1"}}
    requests = [json_body({"id": "7", "inputs": inputs}), json_body({"id": " ", "inputs": inputs[1:]})]
    first, second = handler(KSERVE_V2, requests, envelope="kservev2", manifest=manifest).bodies()
    assert list(first) == ["id", "model_name", "model_version", "outputs"]
    assert (first["id"], first["model_name"], first["model_version"]) == ("7", "archived", "2.1")
    assert second["id"] == "id-1"
    assert first["outputs"] == [
        {"name": "a", "datatype": "INT64", "data": [2, 4, 6, 8], "shape": [4]},
        {"name": "b", "datatype": "BYTES", "data": [{"got": "text"}], "shape": [1]},
    ]


def test_kservev2_envelope_gives_the_inputs_as_they_were_sent(handler: Callable[..., Any]) -> None:
    inputs: list[dict[str, Any]] = [
        {"name": "all", "shape": [1, 2, 2], "datatype": "FP32", "data": [1, 2.5, 3, 4], "parameters": {"k": 1}},
        {"name": "mask", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["first", "second"]},
    ]
    (answer,) = handler(KSERVE_V2, [json_body({"inputs": inputs})], envelope="kservev2").bodies()
    (seen,) = answer["outputs"][0]["data"]
    nested, first = [[[1.0, 2.5], [3.0, 4.0]]], "first"
    assert seen == {
        "rows": [{**inputs[0], "data": nested}, inputs[1], {**inputs[2], "data": first}],
        "names": ["all", "mask", "text"],
    }
    assert answer["outputs"][0]["datatype"] == "BYTES"


OUTPUTS = """
import json, torch
def handle(data, context):
    if data is None:
        return None
    value = eval(data[0]["data"])
    return value if isinstance(value, list) else [value]
"""


@pytest.mark.parametrize(
    ("returned", "datatype", "data"),
    [
        ("'text'", "BYTES", ["text"]),
        ("[['a', 'b']]", "BYTES", ["a", "b"]),
        ("{'k': [1]}", "BYTES", [{"k": [1]}]),
        ("[[{'k': 1}, {'l': 2}]]", "BYTES", [{"k": 1}, {"l": 2}]),
        ("[[[1], [2, 3]]]", "BYTES", [[1], [2, 3]]),
        ("True", "BOOL", [True]),
        ("2.5", "FP64", [2.5]),
        ("torch.tensor([[1, 2]], dtype=torch.int32)", "INT32", [1, 2]),
        ("torch.tensor([1.5], dtype=torch.bfloat16)", "FP32", [1.5]),
    ],
)
def test_kservev2_outputs(handler: Callable[..., Any], returned: str, datatype: str, data: list[Any]) -> None:
    request = json_body({"inputs": [{"name": "code", "shape": [1], "datatype": "BYTES", "data": [returned]}]})
    (answer,) = handler(OUTPUTS, [request], envelope="kservev2").bodies()
    assert answer["outputs"] == [{"name": "code", "datatype": datatype, "data": data, "shape": [len(data)]}]


def test_kservev2_outputs_take_the_inputs_names(handler: Callable[..., Any]) -> None:
    request = json_body({"inputs": [{"name": "code", "shape": [1], "datatype": "BYTES", "data": ["[1, 2]"]}]})
    assert handler(OUTPUTS, [request], envelope="kservev2").bodies() == ["Prediction failed"]


@pytest.mark.parametrize(
    "request_",
    [
        {"inputs": [{"name": "a", "shape": [3], "datatype": "INT8", "data": [1]}]},
        {"inputs": [{"name": "a", "datatype": "INT8", "data": [1]}]},
        {"inputs": [{"name": "a", "shape": [0], "datatype": "BYTES", "data": []}]},
        {"inputs": {}},
        {"id": 5, "inputs": []},
        [],
    ],
)
def test_kservev2_requests_that_do_not_fit(handler: Callable[..., Any], request_: Any) -> None:
    assert handler(KSERVE_V2, [json_body(request_)], envelope="kservev2").bodies() == ["Prediction failed"]


SURROUNDINGS = """
import ts
from PIL import Image
from ts.metrics.metric_type_enum import MetricTypes

class Around:
    def initialize(self, context):
        self.declared = context.metrics.get_metric("HandlerTime", MetricTypes.GAUGE)
    def handle(self, data, context):
        types = [type(row["body"]).__name__ for row in data]
        return [{"limit": Image.MAX_IMAGE_PIXELS, "ts": ts.__file__, "types": types} for _ in data]
"""


def test_ts_is_ours_even_where_another_one_is_installed(handler: Callable[..., Any], tmp_path: Path) -> None:
    other = tmp_path / "site"
    (other / "ts").mkdir(parents=True)
    (other / "ts/__init__.py").write_text("raise RuntimeError('the real torchserve')")
    outcome = handler(SURROUNDINGS, [body("{}", "application/json")], environment={"PYTHONPATH": str(other)})
    assert Path(outcome.bodies()[0]["ts"]).parent.parent.name == "compat"


TYPED_YAML = """
handler: {day: 2026-01-31, at: 2026-01-31 12:30:00, labels: {0: cat, 1: dog}, words: !!set {a, b}, seed: 123456789012345678901}
"""
TYPED = """
class Typed:
    def initialize(self, context):
        self.section = context.model_yaml_config["handler"]

    def handle(self, data, context):
        kept = self.section
        return [[kept["day"].year, kept["at"].hour, kept["labels"][1], sorted(kept["words"]), kept["seed"] + 1] for _ in data]
"""


def test_values_of_model_config_yaml_keep_their_types(handler: Callable[..., Any]) -> None:
    """As TorchServe's workers read the file: dates, sets and integers of any size are no texts."""
    spec = {"manifest": {"model": {"configFile": "typed.yaml"}}, "yaml": plain(yaml.safe_load(TYPED_YAML), "typed.yaml")}
    outcome = handler(TYPED, [body("x")], files={"typed.yaml": TYPED_YAML}, **spec)
    assert outcome.bodies() == [[2026, 12, "dog", ["a", "b"], 123456789012345678902]]


STARTER = """
import subprocess, sys

class Starter:
    def handle(self, data, context):
        command = [sys.executable, "-c", "import beside, ts.context, brought; print(beside.WORD, ts.context.Context.__name__)"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True)
        return [done.stdout.strip() or done.stderr for _ in data]
"""


def test_python_programs_that_a_handler_starts_find_its_modules_and_ts(handler: Callable[..., Any], tmp_path: Path) -> None:
    """As under TorchServe, whose workers have the archive's folder in PYTHONPATH and `ts` installed."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/brought.py").touch()
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    outcome = handler(STARTER, [body("x")], files={"beside.py": "WORD = 'found'"}, environment=environment)
    assert outcome.bodies() == [b"found Context"]


def test_pixel_limit_and_decoding_can_be_switched_off(handler: Callable[..., Any]) -> None:
    (on,) = handler(SURROUNDINGS, [body("{}", "application/json"), body("x", "text/plain")]).bodies()[:1]
    assert on["types"] == ["dict", "str"]
    assert on["limit"] > 0
    spec = {"limit_max_image_pixels": False, "decode_input_request": False}
    off = handler(SURROUNDINGS, [body("{}", "application/json"), body("x", "text/plain")], **spec).bodies()[0]
    assert (off["limit"], off["types"]) == (None, ["bytearray", "bytearray"])


def test_deep_json_stays_bytes(handler: Callable[..., Any]) -> None:
    outcome = handler(SURROUNDINGS, [body("[" * 100_000, "application/json")])
    assert outcome.bodies()[0]["types"] == ["bytearray"]


def test_metrics_yaml_declares_metrics(handler: Callable[..., Any], tmp_path: Path) -> None:
    declared = {"gauge": [{"name": "HandlerTime", "unit": "ms", "dimensions": ["ModelName", "Level"]}]}
    files = {"metrics.yaml": json.dumps({"model_metrics": declared}), "other.yaml": "ts_metrics: {}"}
    assert handler(SURROUNDINGS, files=files, metrics_config=str(tmp_path / "metrics.yaml")).error == ""
    assert "expected a mapping 'model_metrics'" in handler(SURROUNDINGS, metrics_config=str(tmp_path / "other.yaml")).error


LOSES_ITS_DEVICE = (
    broken_cuda.SOURCE
    + """
class Loses:
    def handle(self, data, context):
        wanted = bytes(data[0]["body"]).decode()
        if wanted == "raises":
            lose()
            raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
        if wanted == "catches":
            lose()
            return [RuntimeError("caught and returned") for _ in data]
        if wanted == "harmless":
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
        return ["fine" for _ in data]
"""
)


@pytest.mark.parametrize("how", ["raises", "catches"])
@pytest.mark.parametrize("yaml", [{}, {"asyncCommunication": True}])
def test_a_handler_whose_cuda_context_is_lost_ends_its_worker(
    handler: Callable[..., Any], how: str, yaml: dict[str, Any]
) -> None:
    """The batch is not tried again request by request; the worker's main thread ends with DeviceLost."""
    with pytest.raises(RuntimeError, match="DeviceLost: model 'handled' lost its device: CUDA error: device-side assert"):
        handler(LOSES_ITS_DEVICE, [body(how), body("fine")], yaml=yaml)


def test_an_error_on_a_sound_context_ends_no_worker(handler: Callable[..., Any]) -> None:
    found = handler(LOSES_ITS_DEVICE, [body("harmless")], [body("fine")])
    assert found.bodies(0) == ["Prediction failed"]
    assert found.bodies(1) == [b"fine"]
