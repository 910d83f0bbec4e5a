"""What a model's `requirements.txt` names, installed for that model alone (TorchServe's `install_py_dep_per_model`).

Without `useVenv` it goes into a folder that the model's workers find before everything else; with it, into a virtual
environment that also sees what the server's own Python has, since that is where torch and jitney are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from ....core.errors import DependencyInstallFailed

#: How much of pip's complaint is kept for the operator.
TAIL = 2000


def install_folder(model: str, requirements: Path, folder: Path, seconds: float) -> dict[str, str]:
    """Installs into `folder`; the environment in which workers find it. Raises DependencyInstallFailed (kind "pip")."""
    _pip(model, [sys.executable, "-m", "pip", "install", "--upgrade", "--target", str(folder)], requirements, seconds)
    return {"PYTHONPATH": str(folder)}


def install_venv(model: str, requirements: Path, folder: Path, seconds: float) -> str:
    """Makes a virtual environment in `folder` and installs into it; the path of its Python. Raises DependencyInstallFailed
    (kind "venv" or "pip")."""
    _run(model, "venv", [sys.executable, "-m", "venv", "--system-site-packages", str(folder)], folder.parent, seconds)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # --system-site-packages shows the base Python's packages; the server itself may live in a virtual environment.
    (site / "_jitney_server.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    _pip(model, [str(python), "-m", "pip", "install", "--upgrade"], requirements, seconds)
    return str(python)


def _pip(model: str, command: list[str], requirements: Path, seconds: float) -> None:
    if not requirements.is_file():
        raise DependencyInstallFailed(model, "pip", f"'{requirements.name}' is not in the archive")
    options = ["--no-input", "--disable-pip-version-check", "--quiet", "-r", str(requirements)]
    _run(model, "pip", [*command, *options], requirements.parent, seconds)


def _run(model: str, kind: str, command: list[str], cwd: Path, seconds: float) -> None:
    """Runs a command to its end, or to the deadline: then it and all that it started are killed."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise DependencyInstallFailed(model, kind, str(error)) from None
    with process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise DependencyInstallFailed(model, kind, f"not done after {seconds:g} s; see install_timeout") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise DependencyInstallFailed(model, kind, said.strip()[-TAIL:] or f"status {process.returncode}")
