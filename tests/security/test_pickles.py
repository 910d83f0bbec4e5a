"""Holes 7, 18: nothing that a client sends is unpickled, and no hop between our processes speaks pickle."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jitney.server.grpc import schema
from jitney.tests.security.conftest import Everything, methods

ROOT = Path(__file__).parents[2]
#: Calls that run what they read, by the last part of the name; torch.load is right with `weights_only=True` alone.
UNPICKLE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
#: A file that says `pickle.UnpicklingError` and nothing else may import it.
ERRORS_ONLY = {"UnpicklingError"}


class Bomb:
    """A pickle of it makes a directory where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def bombs(mark: Path) -> list[bytes]:
    """As pickle, as torch.save writes it, as numpy does."""
    plain = pickle.dumps(Bomb(mark))
    archive, array = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", plain)
        file.writestr("archive/version", "3\n")
    np.save(array, np.array([Bomb(mark)], object), allow_pickle=True)
    return [plain, archive.getvalue(), array.getvalue()]


def test_a_bomb_explodes_where_it_is_loaded(tmp_path: Path) -> None:
    """So that the tests below could fail."""
    plain, _, array = bombs(tmp_path / "mark")
    pickle.loads(plain)
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").rmdir()
    np.load(io.BytesIO(array), allow_pickle=True)
    assert (tmp_path / "mark").exists()


ROUTES = (
    "/predictions/echo",
    "/predictions/text",
    "/predictions/m",
    "/explanations/echo",
    "/v1/models/echo:predict",
    "/v1/models/m:predict",
    "/v2/models/echo/infer",
    "/v2/models/m/infer",
    "/v2/models/text/infer",
    "/v2/models/text/generate",
    "/invocations",
    "/models/echo/invoke",
    "/echo/predict",
    "/v2/repository/models/m/load",
    "/v2/repository/index",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/logging",
)
TYPES = ("application/octet-stream", "application/x-pickle", "application/vnd.bentoml+pickle", "application/json", "")


@pytest.mark.parametrize("kind", TYPES)
def test_a_pickle_that_is_posted_to_any_route_does_not_run(server: Everything, tmp_path: Path, kind: str) -> None:
    headers = {"Content_Type": kind} if kind else {}
    for bomb in bombs(tmp_path / "mark"):
        for route in ROUTES:
            assert server.site.ask("inference", "POST", route, bomb, **headers).status < 600
        for route in ("/models", "/models/echo", "/workflows", "/token"):
            assert server.site.ask("management", "POST", route, bomb, **headers).status < 600
        size = {"Inference_Header_Content_Length": "0"}
        assert server.site.ask("inference", "POST", "/v2/models/text/infer", bomb, **size).status == 200
        document = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": [bomb.decode("latin-1")]}]}
        assert server.site.ask("inference", "POST", "/v2/models/text/infer", json.dumps(document).encode()).status == 200
    assert not (tmp_path / "mark").exists()


def test_a_pickle_in_any_call_of_grpc_does_not_run(server: Everything, tmp_path: Path) -> None:
    for bomb in bombs(tmp_path / "mark"):
        for port, method in methods():
            server.call(port, method, bomb)
        for field in ("data", "body"):
            predict = schema.torchserve().methods["org.pytorch.serve.grpc.inference.InferenceAPIsService"]["Predictions"]
            status, answer = server.call("inference", predict, predict.request(model_name="echo", input={field: bomb}))
            assert status == "OK" and len(answer) > len(bomb)
        infer = schema.triton().methods["inference.GRPCInferenceService"]["ModelInfer"]
        message = infer.request(model_name="text")
        message.inputs.add(name="x", datatype="BYTES", shape=[1, 1])
        message.raw_input_contents.append(len(bomb).to_bytes(4, "little") + bomb)
        assert server.call("triton", infer, message)[0] == "OK"
    assert not (tmp_path / "mark").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_the_shipped_handler_that_reads_tensors_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's densenet handler unpickles the body of each request."""
    torch = pytest.importorskip("torch")
    from jitney.backends.compat.ts.torch_handler.densenet_handler import DenseNetHandler

    good, handler = io.BytesIO(), DenseNetHandler()
    torch.save(torch.ones(2), good)
    monkeypatch.setattr(handler, "inference", lambda data: data.tolist())
    context = SimpleNamespace(metrics=SimpleNamespace(add_time=lambda *_: None))
    assert handler.handle([{"data": good.getvalue()}], context) == [[[1.0, 1.0]]]
    evil = io.BytesIO()
    torch.save(Bomb(tmp_path / "mark"), evil)
    for bomb in (*bombs(tmp_path / "mark"), evil.getvalue()):
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            handler.handle([{"data": bomb}], context)
    assert not (tmp_path / "mark").exists()


def files() -> list[Path]:
    rooms = ("core", "codecs", "backends", "server", "tools")
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def test_no_file_unpickles() -> None:
    wrong = []
    for path in files():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in UNPICKLE:
                wrong += [] if node.attr in ERRORS_ONLY else [f"{path}:{node.lineno} {node.value.id}.{node.attr}"]
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in UNPICKLE:
                wrong.append(f"{path}:{node.lineno} from {node.module}")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("load", "yaml_load")
            ):
                wrong += [f"{path}:{node.lineno} {problem}" for problem in _load_problems(node)]
    assert not wrong


def _load_problems(call: ast.Call) -> list[str]:
    """What is wrong with `torch.load`, `np.load` and `yaml.load`."""
    if not isinstance(call.func, ast.Attribute) or not isinstance(call.func.value, ast.Name):
        return []
    named = {word.arg: word.value for word in call.keywords}

    def says(name: str, value: bool) -> bool:
        found = named.get(name)
        return isinstance(found, ast.Constant) and found.value is value

    owner = call.func.value.id
    if owner == "torch" and not says("weights_only", True):
        return ["torch.load without weights_only=True"]
    if owner in ("np", "numpy") and not says("allow_pickle", False):
        return ["numpy.load without allow_pickle=False"]
    return ["yaml.load"] if owner == "yaml" else []
