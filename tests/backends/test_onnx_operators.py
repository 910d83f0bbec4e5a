"""Models with operators of onnxruntime-extensions, with the package and without it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from jitney.backends.compat.ts.torch_handler import loading
from jitney.backends.inspect import describe_onnx
from jitney.backends.onnx_operators import PACKAGE
from jitney.backends.options import CannotLoad
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec


def save(folder: Path, operator: str = "StringUpper", domain: str = "ai.onnx.contrib") -> Path:
    """A model that turns texts into capitals."""
    texts = [helper.make_tensor_value_info(name, TensorProto.STRING, ["N", 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", texts[:1], texts[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    return folder / "model.onnx"


def model(folder: Path) -> Any:
    text = (spec("x", 1, datatype="BYTES"), spec("y", 1, datatype="BYTES"))
    return config(folder, "onnxruntime", text[:1], text[1:])


def test_a_model_with_operators_of_the_package_is_described_and_answers(tmp_path: Path) -> None:
    save(tmp_path)
    assert describe_onnx(tmp_path / "model.onnx")["inputs"] == [{"name": "x", "datatype": "BYTES", "shape": [-1, 1]}]
    (answer,) = answers(loaded(model(tmp_path)), [request(x=np.array([[b"ab"], [b"c"]], dtype=object))])
    assert arrays(answer)["y"].tolist() == [[b"AB"], [b"C"]]


def test_a_handler_loads_it_too(tmp_path: Path) -> None:
    session = loading.load_onnx(str(save(tmp_path)), torch.device("cpu"))
    assert session.run(None, {"x": np.array([["ab"]], dtype=object)})[0].tolist() == [["AB"]]


def broken() -> ModuleType:
    module = ModuleType(PACKAGE)
    module.get_library_path = lambda: "/nowhere.so"  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        (None, "This operator comes with the package onnxruntime-extensions: pip install onnxruntime-extensions"),
        (broken(), "The package onnxruntime-extensions, which has this operator, cannot be used: "),
    ],
)
def test_without_the_package_the_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: ModuleType | None, sentence: str
) -> None:
    if package is None:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    else:
        monkeypatch.setitem(sys.modules, PACKAGE, package)
    save(tmp_path)
    for fails in (lambda: loaded(model(tmp_path)), lambda: describe_onnx(tmp_path / "model.onnx")):
        with pytest.raises((CannotLoad, ValueError)) as caught:
            fails()
        assert "onnx runtime error 1: " in str(caught.value)
        assert f"ai.onnx.contrib:StringUpper(-1) is not a registered function/op. {sentence}" in str(caught.value)


def test_operators_of_others_are_not_the_package_s(tmp_path: Path) -> None:
    save(tmp_path, "Nothing", "my.own")
    with pytest.raises(CannotLoad) as caught:
        loaded(model(tmp_path))
    assert str(caught.value).endswith("my.own:Nothing(-1) is not a registered function/op")
