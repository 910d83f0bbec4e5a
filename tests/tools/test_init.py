"""`jitney init`: what it writes can be served, checked and asked with the lines that it prints."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.server.cli.main import main
from jitney.tests.fakes.torchserve_server import environment
from jitney.tools.bench.served import ServedProcess, serving
from jitney.tools.dev import build_template
from jitney.tools.first_steps import ask
from jitney.tools.init import REQUEST, commands
from jitney.tools.templates import ANSWER, LINEAR, TEMPLATES, safetensors

MODELS = sorted(set(TEMPLATES) - {"handler"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """Serves a model of each backend, and an archive, as they were written."""
    folder = tmp_path_factory.mktemp("init")
    for backend in TEMPLATES:
        into = folder / ("sources" if backend == "handler" else "models")
        assert main(["init", f"my-{backend}", "--backend", backend, "--into", str(into)]) == 0
    pack = shlex.split(commands(folder / "sources/my-handler", "my-handler", "handler")[0])
    done = subprocess.run(
        [sys.executable, "-m", "jitney.server.cli", *pack[1:]], cwd=folder, env=environment(folder), check=False
    )
    assert done.returncode == 0
    with serving(folder / "models", flags=["--model-store", str(folder / "model_store")], folder=folder) as server:
        yield server


@pytest.mark.parametrize("backend", TEMPLATES)
def test_what_it_writes_answers(server: ServedProcess, backend: str) -> None:
    status, answer = ask(f"{server.inference}/predictions/my-{backend}", REQUEST.encode(), "application/json")
    assert (status, "".join(answer.split())) == (200, str([ANSWER]).replace(" ", ""))


@pytest.mark.parametrize("backend", MODELS)
def test_a_check_finds_nothing_wrong_with_it(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "m", "--backend", backend]) == 0
    said = capsys.readouterr().out
    assert "  jitney serve models\n" in said and f"/predictions/m -H 'Content-Type: application/json' -d '{REQUEST}'" in said
    assert main(["check", "models"]) == 0
    assert capsys.readouterr().out == "no errors\n"


def test_nothing_is_overwritten_and_nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "m", "--backend", "python"]) == 0
    (tmp_path / "models/m/1/model.py").write_text("mine")
    assert main(["init", "m", "--backend", "python"]) == 1
    assert "'models/m' exists already" in capsys.readouterr().err
    assert (tmp_path / "models/m/1/model.py").read_text() == "mine"
    assert main(["init", "../out", "--backend", "python"]) == 1
    assert main(["init", "a@b", "--backend", "handler"]) == 1
    assert "cannot be an archive's name" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_a_script_that_fails_leaves_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    template = TEMPLATES["torchscript"]
    broken = {**template.files, "export.py": "raise SystemExit('no such thing')"}
    monkeypatch.setitem(TEMPLATES, "torchscript", type(template)(broken, "torch", "torch", "", "export.py"))
    assert main(["init", "m", "--backend", "torchscript"]) == 1
    assert "export.py failed with status 1: no such thing" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []


def test_the_onnx_model_is_the_one_that_is_built_here() -> None:
    assert LINEAR.read_bytes() == build_template.linear()


def test_weights_are_what_safetensors_reads() -> None:
    load = pytest.importorskip("safetensors.numpy").load
    found = load(safetensors({"scale": [2.0], "shift": [1.0, 0.5]}))
    assert {name: list(values) for name, values in found.items()} == {"scale": [2.0], "shift": [1.0, 0.5]}
