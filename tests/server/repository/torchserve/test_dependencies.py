from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from jitney.core.errors import DependencyInstallFailed
from jitney.server.repository.torchserve.dependencies import install_folder, install_venv


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    """A requirements.txt for a package that lies beside it, and no index."""
    info = "jitney_test_dep-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "jitney_test_dep-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("jitney_test_dep.py", "VALUE = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: jitney-test-dep\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (tmp_path / "requirements.txt").write_text("--no-index\n--find-links .\njitney-test-dep==1.0\n")
    return tmp_path / "requirements.txt"


def test_a_folder_that_workers_find(tmp_path: Path, requirements: Path) -> None:
    environment = install_folder("m", requirements, tmp_path / "site", 120)
    assert environment == {"PYTHONPATH": str(tmp_path / "site")}
    assert (tmp_path / "site" / "jitney_test_dep.py").is_file()


def test_a_virtual_environment_sees_the_servers_packages(tmp_path: Path, requirements: Path) -> None:
    python = install_venv("m", requirements, tmp_path / "venv", 120)
    code = "import jitney_test_dep, msgspec, jitney.core.errors; print(jitney_test_dep.VALUE, jitney_test_dep.__file__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.stdout.startswith(f"42 {tmp_path}/venv/"), done.stderr


def test_failures_say_why(tmp_path: Path, requirements: Path) -> None:
    requirements.write_text("--no-index\nno-such-package\n")
    with pytest.raises(DependencyInstallFailed, match="no-such-package") as failed:
        install_folder("m", requirements, tmp_path / "site", 120)
    assert (failed.value.model, failed.value.kind) == ("m", "pip")
    with pytest.raises(DependencyInstallFailed, match="not in the archive"):
        install_folder("m", tmp_path / "nosuch.txt", tmp_path / "site", 120)
    with pytest.raises(DependencyInstallFailed, match="not done after"):
        install_folder("m", requirements, tmp_path / "site", 0.01)
    (tmp_path / "file").touch()
    with pytest.raises(DependencyInstallFailed) as failed:
        install_venv("m", requirements, tmp_path / "file", 120)
    assert failed.value.kind == "venv"
