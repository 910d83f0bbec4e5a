"""Backends that are a `model.py`: where they are looked for, and what a model of one looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.tests.fakes.repository import PYTHON_MODEL, TENSORS, Folder

COMPLETING = (
    PYTHON_MODEL
    + """
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "a", "data_type": "TYPE_FP32", "dims": [4]})
        config.add_output({"name": "b", "data_type": "TYPE_FP32", "dims": [4]})
        config.set_max_batch_size(0)
        return config
"""
)


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    """A folder with one backend, `sums`."""
    folder = tmp_path / "backends"
    (folder / "sums").mkdir(parents=True)
    (folder / "sums" / "model.py").write_text(PYTHON_MODEL)
    return folder


def test_a_folder_of_the_backend_directory_is_a_backend(folder: Folder, backends: Path) -> None:
    folder.model("m", 'backend: "sums"' + TENSORS, {"1/model.json": "{}"})
    config = folder.read("m", backend_directory=backends)
    assert (config.backend, config.filename) == ("python", str(backends / "sums" / "model.py"))
    shown = [config.config_json[field] for field in ("backend", "runtime", "default_model_filename")]
    assert shown == ["sums", "model.py", ""]
    assert config.version_directory == str(folder.path / "m" / "1")


@pytest.mark.parametrize("runtime", ["", 'runtime: "model.py"'])
def test_a_file_of_the_models_own_is_no_backend(folder: Folder, backends: Path, runtime: str) -> None:
    folder.model("m", f'backend: "mine" {runtime}{TENSORS}', {"1/model.py": PYTHON_MODEL, "model.py": PYTHON_MODEL})
    for directory in (backends, None):
        with pytest.raises(InvalidConfig, match=r":1: backend 'mine' of m is not offered, .* --backend-directory"):
            folder.read("m", backend_directory=directory)


def test_the_servers_own_backends_stay_its_own(folder: Folder, backends: Path) -> None:
    (backends / "python").mkdir()
    (backends / "python" / "model.py").write_text(PYTHON_MODEL)
    folder.python("m")
    assert folder.read("m", backend_directory=backends).filename == "model.py"


@pytest.mark.parametrize("name", ["../sums", "/etc", ".hidden", "a/b"])
def test_a_name_that_is_no_file_name_is_refused_where_it_is_written(folder: Folder, backends: Path, name: str) -> None:
    folder.model("m", f'\nbackend: "{name}"' + TENSORS)
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:2: 'backend' of m: invalid name"):
        folder.read("m", backend_directory=backends)


def test_the_backends_file_completes_the_configuration(folder: Folder, backends: Path) -> None:
    (backends / "sums" / "model.py").write_text(COMPLETING)
    folder.model("m", 'backend: "sums"', {"1/model.json": "{}"})
    config = folder.read("m", backend_directory=backends)
    assert [(spec.name, spec.dims) for spec in (*config.inputs, *config.outputs)] == [("a", (4,)), ("b", (4,))]


def test_a_backend_directory_that_is_no_folder_keeps_no_other_model_from_being_served(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.python("m")
    folder.model("of_a_backend", 'backend: "sums"' + TENSORS)
    absent = folder.path / "absent"
    assert folder.read("m", backend_directory=absent).backend == "python"
    assert f"backend directory '{absent}' is not a folder" in caplog.text
    with pytest.raises(InvalidConfig, match="not offered"):
        folder.read("of_a_backend", backend_directory=absent)
