"""Describing model files in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, ValueInfoProto, helper, save

from jitney.backends.inspect import describe
from jitney.backends.torchscript import quiet_jit


class Two(torch.nn.Module):
    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image * scale, image


def inspect(path: Path, kind: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jitney.backends.inspect", str(path), "--kind", kind]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_an_onnx_file_tells_names_types_and_shapes(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, None])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, None])]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", inputs, outputs)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    done = inspect(tmp_path / "model.onnx", "onnx")
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3, -1]}],
    }


def test_a_classifier_that_answers_dictionaries_is_refused_with_the_cure(tmp_path: Path) -> None:
    """What skl2onnx writes unless it is told otherwise."""
    tree = helper.make_node("ZipMap", ["x"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    answer = ValueInfoProto(name="p")
    answer.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    answer.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph([tree], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])], [answer])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(
        ValueError, match=r"'p' is seq\(map\(int64,tensor\(float\)\)\), which has no KServe v2 datatype: export the"
    ) as caught:
        describe(tmp_path / "model.onnx", "onnx")
    assert "options={'zipmap': False}" in str(caught.value)


def test_a_torchscript_file_tells_names_and_counts(tmp_path: Path) -> None:
    with quiet_jit():
        torch.jit.script(Two()).save(str(tmp_path / "model.pt"))  # type: ignore[no-untyped-call]
    found = describe(tmp_path / "model.pt", "torchscript")
    assert [item["name"] for item in found["inputs"]] == ["image", "scale"]
    assert [item["name"] for item in found["outputs"]] == ["OUTPUT__0", "OUTPUT__1"]
    assert found["inputs"][0]["shape"] is None


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "exported"])
def test_a_damaged_file_is_one_sentence_and_exit_1(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model").write_bytes(b"junk")
    done = inspect(tmp_path / "model", kind)
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(tmp_path / "model") in done.stderr
    assert "Traceback" not in done.stderr
