"""What programs and handlers' own tests use of `ts`: loading a handler, its messages, a context of their own."""

from __future__ import annotations

import json
import queue
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jitney.backends.compat.ts import launcher, model_server
from jitney.backends.compat.ts.arg_parser import ArgParser
from jitney.backends.compat.ts.context import Context, RequestProcessor
from jitney.backends.compat.ts.handler_utils.utils import send_intermediate_predict_response
from jitney.backends.compat.ts.metrics import sink
from jitney.backends.compat.ts.model_loader import ModelLoaderFactory
from jitney.backends.compat.ts.protocol import otf_message_handler as otf
from jitney.backends.compat.ts.service import Service
from jitney.backends.compat.ts.torch_handler.base_handler import BaseHandler
from jitney.backends.compat.ts.torch_handler.densenet_handler import DenseNetHandler
from jitney.backends.compat.ts.torch_handler.request_envelope.kservev2 import KServev2Envelope
from jitney.backends.compat.ts.torch_handler.unit_tests.models.base_model import ArgmaxModel, save_pt_file
from jitney.backends.compat.ts.torch_handler.unit_tests.test_utils.mock_context import MockContext
from jitney.backends.compat.ts.torch_handler.unit_tests.test_utils.model_dir import copy_files, download_model
from jitney.backends.compat.ts.utils.util import PredictionException
from jitney.tests.fakes.handler_metrics import made_metrics


def sized(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


END = struct.pack("!i", -1)


def request(request_id: bytes, content_type: bytes, value: bytes) -> bytes:
    header = sized(b"x-a") + sized(b"1") + END
    return sized(request_id) + header + sized(b"body") + sized(content_type) + sized(value) + END


class Response:
    """A response, read back by the layout that the module's page draws."""

    def __init__(self, data: bytes | bytearray | None) -> None:
        assert data is not None
        self._rest = memoryview(bytes(data))
        self.code, self.message = self.number(), self.text()
        self.predictions: list[dict[str, Any]] = []
        while (length := self.number()) != -1:
            entry: dict[str, Any] = {"id": self.take(length).decode(), "type": self.text(), "status": self.number()}
            entry |= {"phrase": self.text(), "headers": {self.text(): self.text() for _ in range(self.number())}}
            self.predictions.append({**entry, "body": self.take(self.number())})
        assert not self._rest

    def take(self, length: int) -> bytes:
        taken, self._rest = bytes(self._rest[:length]), self._rest[length:]
        return taken

    def number(self) -> int:
        return int(struct.unpack("!i", self.take(4))[0])

    def text(self) -> str:
        return self.take(self.number()).decode()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


# -- messages ----------------------------------------------------------------------------------------------------------------


def test_messages_are_read(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    flags = struct.pack("!i", 4) + sized(b"handler.py") + struct.pack("!i", -1) + sized(b"json") + b"\1"
    theirs.sendall(b"L" + sized(b"net") + sized(b"/dir") + flags)
    loaded = {"modelName": b"net", "modelPath": b"/dir", "batchSize": 4, "handler": b"handler.py", "envelope": b"json"}
    assert otf.retrieve_msg(ours) == (b"L", {**loaded, "limitMaxImagePixels": True})
    batch = request(b"r1", b"application/json", b'{"a": 1}') + request(b"r2", b"text/plain", b"hi") + END
    theirs.sendall(b"I" + batch)
    command, (first, second) = otf.retrieve_msg(ours)
    assert (command, first["requestId"], first["headers"]) == (b"I", b"r1", [{"name": b"x-a", "value": b"1"}])
    assert first["parameters"] == [{"name": "body", "contentType": "application/json", "value": {"a": 1}}]
    assert second["parameters"][0]["value"] == "hi"
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    theirs.sendall(b"I" + batch)
    assert otf.retrieve_msg(ours)[1][0]["parameters"][0]["value"] == b'{"a": 1}'
    theirs.sendall(b"X")
    with pytest.raises(ValueError, match="Invalid command: b'X'"):
        otf.retrieve_msg(ours)
    theirs.sendall(b"I\0")
    theirs.close()
    with pytest.raises(ConnectionError, match="hung up after 1 of 4 bytes"):
        otf.retrieve_msg(ours)


def test_responses_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context("m", "", None, 1, None, "")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "a/b")
    context.set_response_status(404, "Gone", 1)
    ids = {0: "r1", 1: "r2"}
    read = Response(otf.create_predict_response([{"k": 1}, b"raw"], ids, "fine", 200, context))
    assert (read.code, read.message) == (200, "fine")
    assert read.predictions[0] == {
        "id": "r1", "type": "a/b", "status": 200, "phrase": "", "headers": {"content-type": "a/b"}, "body": b'{\n  "k": 1\n}'
    }  # fmt: skip
    assert (read.predictions[1]["status"], read.predictions[1]["phrase"], read.predictions[1]["body"]) == (
        404,
        "Gone",
        b"raw",
    )
    failed = Response(otf.create_predict_response([object(), "x"], ids, "fine", 200, context))
    assert (failed.code, failed.message) == (503, "Unsupported model output data type.")
    assert [p["body"] for p in failed.predictions] == [b"error"] * 2
    for more, header in ((True, "true"), (False, "false")):
        streamed = Response(otf.create_predict_response(["a", "b"], ids, "", 200, context, more))
        assert [p["headers"]["ts_stream_next"] for p in streamed.predictions] == [header] * 2
    context.stopping_criteria = {0: lambda answer: answer == "stop", 1: lambda answer: answer == "stop"}
    stopping = Response(otf.create_predict_response(["stop", "go"], ids, "", 200, context))
    assert [p["headers"]["ts_stream_next"] for p in stopping.predictions] == ["false", "true"]
    assert Response(otf.create_load_model_response(507, "no room")).code == 507
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert otf.create_predict_response(["a"], {0: "r"}, "", 200) is None


def test_the_older_helper_of_streams_warns(pair: tuple[socket.socket, socket.socket]) -> None:
    context = Context("m", "", None, 1, None, "")
    with pytest.warns(PendingDeprecationWarning, match=r"use ts\.handler_utils\.utils\."), pytest.raises(RuntimeError):
        otf.send_intermediate_predict_response(["a"], {0: "r"}, "", 200, context)
    ours, context.cl_socket = pair
    send_intermediate_predict_response(["a"], {0: "r"}, "part", 200, context)
    assert Response(ours.recv(4096)).predictions[0]["headers"] == {"ts_stream_next": "true"}


# -- loading and calling a handler ---------------------------------------------------------------------------------------------

HANDLER = """
class Echo:
    def initialize(self, context):
        self.context = context
    def handle(self, data, context):
        if data[0]["body"] == "memory":
            raise MemoryError
        if data[0]["body"] == "few":
            return []
        if data[0]["body"] == "none":
            return None
        return [[row["body"], context.get_request_header(i, "x-a"), context.model_yaml_config] for i, row in enumerate(data)]
"""


def rows(*bodies: str) -> list[dict[str, Any]]:
    parts = ({"name": "body", "contentType": "text/plain", "value": body} for body in bodies)
    headers = [{"name": b"x-a", "value": b"1"}]
    return [{"requestId": b"r%d" % at, "headers": headers, "parameters": [part]} for at, part in enumerate(parts)]


def test_a_handler_is_loaded_and_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(sink, "_emit", sent.append)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF/MANIFEST.json").write_text(json.dumps({"model": {"modelName": "e", "configFile": "c.yaml"}}))
    (tmp_path / "c.yaml").write_text("k: 1")
    (tmp_path / "echo_without_server.py").write_text(HANDLER)
    loader, metrics = ModelLoaderFactory.get_model_loader(), made_metrics("e")
    service = loader.load("e", str(tmp_path), "echo_without_server.py", None, 2, metrics_cache=metrics)
    assert service.context.manifest is not None
    assert service.context.system_properties["batch_size"] == 2 and service.context.manifest["model"]["modelName"] == "e"
    read = Response(service.predict(rows("a", "b")))
    assert (read.message, [json.loads(p["body"]) for p in read.predictions]) == (
        "Prediction success",
        [["a", "1", {"k": 1}], ["b", "1", {"k": 1}]],
    )
    assert [(m["name"], m["request_ids"]) for m in sent] == [("PredictionTime", ["r0", "r1"])]
    for body, code, message in (
        ("memory", 507, "Out of resources"),
        ("few", 503, "number of batch response mismatched"),
        ("none", 503, "Invalid model predict output"),
    ):
        read = Response(service.predict(rows(body)))
        assert (read.code, read.message, read.predictions[0]["body"]) == (code, message, b"error")
    with pytest.raises(ValueError, match="no batch"):
        service.predict(None)


def test_a_handler_s_errors_are_responses() -> None:
    def entry(data: list[dict[str, str]], context: Context) -> None:
        raise (
            PredictionException("no", 422)
            if data[0]["body"] == "p"
            else ValueError("CUDA" if data[0]["body"] == "c" else "")
        )

    service = Service("m", "", None, entry, None, 1, metrics_cache=made_metrics("m"))
    answers = [Response(service.predict(rows(body))) for body in "pcx"]
    assert [(a.code, a.message) for a in answers] == [
        (422, "no"),
        (507, "Out of resources"),
        (503, "Prediction failed"),
    ]


# -- a context for tests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mocked(tmp_path: Path) -> MockContext:
    save_pt_file(str(tmp_path / "model.pt"))
    copy_files(
        Path(str(sys.modules[ArgmaxModel.__module__].__file__)).parent, tmp_path, {"base_model.py": "argmax_model.py"}
    )
    (tmp_path / "c.yaml").write_text("k: 1")
    return MockContext(model_dir=str(tmp_path), model_file="argmax_model.py", gpu_id=None, model_yaml_config_file="c.yaml")


def test_handlers_run_in_a_mock_context(mocked: MockContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handler = BaseHandler()
    handler.initialize(mocked)
    assert handler.handle([[1.0, 2.0], [4.0, 3.0]], mocked) == [1, 0]
    assert [metric.name for metric in mocked.metrics.store] == ["HandlerTime"]
    assert handler.model_yaml_config == {"k": 1}
    assert (mocked.get_request_header(0, "explain"), mocked.get_request_header(1, "explain")) == (False, False)
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    envelope = KServev2Envelope(lambda data, context: handler.handle(data[0]["data"], context))
    (answer,) = envelope.handle([{"body": {"id": "i", "inputs": [entry]}}], mocked)
    assert answer == {
        "id": "i",
        "model_name": None,
        "model_version": None,
        "outputs": [{"name": "x", "datatype": "INT64", "data": [1], "shape": [1]}],
    }
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert handler.handle([[1.0, 2.0]], mocked) == [1]
    assert list((tmp_path / "pytorch_profiler").iterdir())


def test_a_model_is_downloaded_once(tmp_path: Path) -> None:
    (tmp_path / "remote.pt").write_bytes(b"weights")
    target = tmp_path / "model"
    target.mkdir()
    for _ in range(2):
        download_model((tmp_path / "remote.pt").as_uri(), target, tmp_path / "cache")
        assert (target / "model.pt").read_bytes() == b"weights"
        (tmp_path / "remote.pt").unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_densenet_handler(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "model.pt"))  # type: ignore[no-untyped-call]
    tensor = torch.tensor([-1.0, 2.0])
    torch.save(tensor, tmp_path / "x.pt")
    context = MockContext(model_dir=str(tmp_path), model_file=None, gpu_id=None)
    handler = DenseNetHandler()
    handler.initialize(context)
    (output,) = handler.handle([{"body": (tmp_path / "x.pt").read_bytes()}], context)
    assert output.tolist() == [[0.0, 2.0]]


# -- the command -----------------------------------------------------------------------------------------------------------------


def test_flags() -> None:
    given = ArgParser.extract_args(["--start", "--disable-token-auth", "--enable-model-api", "--models", "a.mar", "b=b.mar"])
    assert (given.start, given.token_auth, given.model_mode, given.models) == (True, True, True, ["a.mar", "b=b.mar"])
    worker = ArgParser.model_service_worker_args().parse_args(["--sock-type", "tcp", "--port", "9000", "--async"])
    assert (worker.sock_type, worker.port, worker.async_comm, worker.metrics_config) == ("tcp", "9000", True, None)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["torchserve", "--version"])
    model_server.start()
    assert capsys.readouterr().out.startswith("TorchServe Version is 0.12.0")
    (tmp_path / "config.properties").write_text("# comment\nmodel_store=/a\nload_models = all\n")
    assert model_server.load_properties(str(tmp_path / "config.properties")) == {"model_store": "/a", "load_models": "all"}


def test_lines_are_copied_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tee = launcher.Tee(["one\n", "two\n"] * 600)
    tee.start()
    printer = launcher.PrintTillTheEnd(tee.queue1)
    tee.join(10)
    printer.start()
    printer.join(10)
    assert capsys.readouterr().out.splitlines()[:2] == ["two", "one"]  # the oldest made room for the end
    lines = [tee.queue2.get_nowait() for _ in range(1000)]
    assert lines[-1] is None and lines[0] == "two\n"
    with pytest.raises(queue.Empty):
        tee.queue2.get_nowait()
    assert not any(isinstance(thread, launcher.Tee) for thread in threading.enumerate())
