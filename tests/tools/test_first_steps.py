"""`jitney demo`, as it is installed: with its model and picture, and without what is only there in a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jitney.tools.first_steps import PICTURE, STARTER

ROOT = Path(__file__).resolve().parents[2]
#: What extras, and the project's own development, bring: none of it is there after `pip install jitney[onnx]`.
EXTRAS = ("torch", "safetensors", "sklearn", "gevent", "geventhttpclient", "cryptography", "onnx")
RUN = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from jitney.server.cli.main import main
import jitney
print(jitney.__file__, flush=True)
sys.exit(main(["demo"]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a wheel has it."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(folder / "build"), "--build-lib", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


def demo(installed: Path, folder: Path, missing: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, ",".join(missing)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_runs_from_an_installed_package(installed: Path, tmp_path: Path) -> None:
    done = demo(installed, tmp_path, EXTRAS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(installed / "jitney"))
    assert str(installed / "jitney" / "tools" / "starter") in done.stdout
    assert done.stdout.count("  ok: ") == 6 and "FAILED" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_it_names_the_extra(installed: Path, tmp_path: Path) -> None:
    done = demo(installed, tmp_path, (*EXTRAS, "onnxruntime"))
    assert done.returncode == 1
    assert done.stderr == "jitney demo serves an ONNX model and onnxruntime is missing: pip install 'jitney[onnx]'\n"


def test_a_wrong_answer_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture of another digit: the demo finds what it promised not fulfilled."""
    from jitney.tools import first_steps
    from jitney.tools.dev import digits

    other = tmp_path / "three.png"
    other.write_bytes(next(png for png, label in digits.held_out() if label == 3))
    monkeypatch.setattr(first_steps, "PICTURE", other)
    assert first_steps.main() == 1
    assert "FAILED: the likeliest class is 7" in capsys.readouterr().out


def test_the_model_is_the_one_that_is_trained_here() -> None:
    """Its configuration is digits_onnx's under another name, and its weights find the digits that were held out."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from jitney.tools.dev import digits

    folders = (STARTER / "digits", ROOT / "model_repository" / "digits_onnx")
    ours, theirs = ((folder / "config.pbtxt").read_text().splitlines() for folder in folders)
    assert ours[2:] == theirs[2:]
    pixels, labels = digits.decode(digits.held_out(), digits.read_config(STARTER / "digits" / "config.pbtxt"))
    session = onnxruntime.InferenceSession((STARTER / "digits" / "1" / "model.onnx").read_bytes())
    (logits,) = session.run(None, {"image": pixels.numpy()})
    assert float(np.mean(logits.argmax(1) == labels.numpy())) >= 0.97
    assert (PICTURE.read_bytes(), 7) in digits.held_out()
