"""The process that asks a Python model to complete its configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(folder: Path, source: str, document: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    directory = folder / "m" / "1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.py").write_text(source)
    (directory / "sibling.py").write_text("BATCH = 7\n")
    command = [sys.executable, "-P", "-m", "jitney.backends.autocomplete", *(arguments or [str(directory)])]
    return subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, timeout=60, check=False)


def test_the_models_own_method_completes_the_document(tmp_path: Path) -> None:
    source = """
import sibling
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        print("a model may print")
        config.set_max_batch_size(sibling.BATCH)
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [1]})
        return config
"""
    done = run(tmp_path, source, {"name": "m", "max_batch_size": 0})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["name"], found["max_batch_size"], found["output"][0]["name"]) == ("m", 7, "Y")
    assert "a model may print" in done.stderr
    assert not (tmp_path / "m" / "1" / "__pycache__").exists(), "the repository is the operator's"


def test_a_model_without_the_method_changes_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "class TritonPythonModel: pass", {"name": "m", "input": [1]})
    assert (done.returncode, json.loads(done.stdout)) == (0, {"name": "m", "input": [1]})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("raise KeyError('no such thing')", "KeyError: 'no such thing'"),
        ("return {}", "must return the ModelConfig object"),
        ("config.set_max_batch_size(1)", "specified max_batch_size 4, but"),
        ("pb_utils.get_model_dir()", "needs a running server"),
    ],
)
def test_what_goes_wrong_is_one_text(tmp_path: Path, body: str, text: str) -> None:
    source = f"""
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        {body}
"""
    done = run(tmp_path, source, {"name": "m", "max_batch_size": 4})
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "", {}, str(tmp_path / "m" / "1"), "other.py")
    assert done.returncode == 1
    assert "other.py does not exist" in done.stderr


def test_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "", {}, "a", "b", "c")
    assert (done.returncode, done.stderr.startswith("usage:")) == (2, True)
