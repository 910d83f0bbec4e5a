"""The parameter that has models share worker processes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.tests.fakes.repository import Folder
from jitney.tests.server.repository.triton.test_limits import parameter

ONNX = """platform: "onnxruntime_onnx" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_model_names_its_group(folder: Folder) -> None:
    folder.model("m", parameter("worker_group", "small") + ONNX, {"1/model.onnx": b""})
    folder.model("n", ONNX, {"1/model.onnx": b""})
    assert folder.read("m").worker_group == "small"
    assert folder.read("n").worker_group == ""


@pytest.mark.parametrize("name", ["", "a b", "../up"])
def test_a_name_that_is_none_is_refused_with_its_line(folder: Folder, name: str) -> None:
    folder.model("m", parameter("worker_group", name) + ONNX, {"1/model.onnx": b""})
    with pytest.raises(InvalidConfig, match=r"config.pbtxt:\d+: model 'm' is to be in worker_group .*expected a name"):
        folder.read("m")


def test_a_python_model_is_refused_with_what_is_allowed(folder: Folder) -> None:
    folder.python("m", parameter("worker_group", "small"))
    expected = r"config.pbtxt:\d+: model 'm' .*backend is 'python'.*ONNX Runtime, TorchScript and torch.export can share"
    with pytest.raises(InvalidConfig, match=expected):
        folder.read("m")


def test_an_ensemble_has_no_worker_that_could_share(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.model(
        "e",
        parameter("worker_group", "small")
        + """platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling { step [ { model_name: "m" model_version: -1
input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } ] }
""",
    )
    with caplog.at_level(logging.WARNING):
        assert folder.read("e").worker_group == ""
    assert "parameter worker_group has no effect, set it for the models of its steps" in caplog.text
