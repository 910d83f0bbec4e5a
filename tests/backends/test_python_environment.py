"""Python models in a virtual environment of their own (EXECUTION_ENV_PATH)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jitney.core.errors import InvalidConfig, LoadFailed
from jitney.core.tensor import Tensor
from jitney.server.process.environment import module_command, own_python
from jitney.tests.fakes.serving import serving, write_model

CONFIG = """
backend: "python" max_batch_size: 4
%s
parameters { key: "EXECUTION_ENV_PATH" value: { string_value: "$$TRITON_MODEL_DIRECTORY/environment" } }
instance_group [ { kind: KIND_CPU } ]
"""
TENSORS = """
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_STRING dims: [ -1 ] } ]
"""
MODEL = """
import importlib.util, sys
import numpy as np
import triton_python_backend_utils as pb_utils
import only_here


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [only_here.SIZE]})
        config.add_output({"name": "Y", "data_type": "TYPE_STRING", "dims": [-1]})
        return config

    def execute(self, requests):
        seen = [sys.prefix, *(name for name in ("falcon", "psutil", "torch") if importlib.util.find_spec(name))]
        answer = np.array([seen], object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", answer)]) for _ in requests]
"""


def make_environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with the server's copies of these packages, and a module that only it has."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "only_here.py").write_text("SIZE = 1\n")
    installed = Path(np.__file__).parents[1]
    for package in packages:
        (site / package).symlink_to(installed / package)
    return folder


def test_a_model_runs_in_its_own_environment_and_sees_nothing_of_the_servers(tmp_path: Path) -> None:
    write_model(tmp_path, "env", CONFIG % "", MODEL)
    environment = make_environment(tmp_path / "env" / "environment", "numpy", "numpy.libs")
    with serving(tmp_path, "env") as served:
        assert served.dataplane.config("env").inputs[0].dims == (1,), "auto_complete_config ran there too"
        (response,) = served.ask("env", [Tensor.from_numpy("X", np.zeros((1, 1), np.float32))])
        assert response.tensors[0].numpy().tolist() == [[str(environment).encode()]]


def test_an_environment_without_numpy_says_so(tmp_path: Path) -> None:
    write_model(tmp_path, "env", CONFIG % TENSORS, MODEL.replace("auto_complete_config", "other"))
    make_environment(tmp_path / "env" / "environment")
    with serving(tmp_path) as served, pytest.raises(LoadFailed, match="has no numpy: install it there"):
        served.load("env")


def test_what_is_no_environment_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "env", CONFIG % TENSORS, MODEL.replace("auto_complete_config", "other"))
    with serving(tmp_path) as served, pytest.raises(LoadFailed, match="expected the absolute path of a virtual environment"):
        served.load("env")


def test_the_python_of_an_environment(tmp_path: Path) -> None:
    assert own_python("m", {}, "/models/m") is None
    (tmp_path / "env.tar.gz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for named, text in (
        ("$$TRITON_MODEL_DIRECTORY/env.tar.gz", "is a file: unpack the archive"),
        ("$$TRITON_MODEL_DIRECTORY/nothing", "expected the absolute path"),
        ("relative", "expected the absolute path"),
        ("$$TRITON_MODEL_DIRECTORY/empty", "has no bin/python"),
    ):
        with pytest.raises(InvalidConfig, match=f"model 'm': parameter EXECUTION_ENV_PATH names .*{text}"):
            own_python("m", {"EXECUTION_ENV_PATH": named}, str(tmp_path))
    (tmp_path / "empty" / "bin").mkdir()
    python = tmp_path / "empty" / "bin" / "python"
    python.symlink_to(sys.executable)
    assert own_python("m", {"EXECUTION_ENV_PATH": str(tmp_path / "empty")}, "") == python


def test_a_foreign_environment_without_msgspec_of_its_kind_is_told_what_to_install(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "environment", "numpy", "numpy.libs")
    command = module_command(environment / "bin" / "python", "jitney.backends.autocomplete")
    (tmp_path / "msgspec").mkdir()
    (tmp_path / "msgspec" / "__init__.py").write_text("from . import _core\n")
    command[3] = str(tmp_path / "msgspec" / "__init__.py")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "needs msgspec, install it there" in done.stderr
