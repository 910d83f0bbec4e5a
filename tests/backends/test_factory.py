"""From a configuration's backend name to the class that runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jitney.backends.eager import EagerBackend
from jitney.backends.factory import BACKENDS, create
from jitney.backends.onnx import OnnxBackend
from jitney.backends.torchscript import TorchScriptBackend
from jitney.tests.fakes.tensors import config


@pytest.mark.parametrize(
    ("name", "expected"), [("eager", EagerBackend), ("torchscript", TorchScriptBackend), ("onnxruntime", OnnxBackend)]
)
def test_each_name_has_its_class(tmp_path: Path, name: str, expected: type) -> None:
    assert type(create(config(tmp_path, name, [], []))) is expected


@pytest.mark.parametrize("name", ["ensemble", "tensorrt"])
def test_an_unknown_backend_is_named_with_the_accepted_ones(tmp_path: Path, name: Any) -> None:
    with pytest.raises(
        ValueError, match=f"has backend '{name}'; expected one of eager, exported, handler, onnxruntime, python, torchscript"
    ):
        create(config(tmp_path, name, [], []))


def test_the_factory_and_the_batch_import_no_framework() -> None:
    imports = "import sys, jitney.backends.factory, jitney.backends.batch"
    code = f"{imports}; print({{'torch', 'onnxruntime'}} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "none"
    assert set(BACKENDS) == {"eager", "torchscript", "exported", "onnxruntime", "python", "handler"}
