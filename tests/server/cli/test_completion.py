"""`jitney completion`: what a shell is told to do, and what it is told then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from jitney.server.cli import completion
from jitney.server.cli.main import COMMANDS, main
from jitney.server.cli.serve_parser import serve_parser

#: What bash does when somebody presses the tabulator behind $1.
PRESSED = """
source <({jitney} completion bash)
COMP_LINE="$1"; COMP_POINT=${{#1}}; COMP_WORDS=($1); COMP_CWORD=${{#COMP_WORDS[@]}}; COMPREPLY=()
_python_argcomplete jitney
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def pressed(line: str, folder: Path) -> list[str]:
    pytest.importorskip("argcomplete")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    command = folder / "bin" / "jitney"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m jitney.server.cli "$@"\n')
    command.chmod(0o755)
    environ = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    script = PRESSED.format(jitney=command)
    done = subprocess.run(
        [bash, "-c", script, "bash", line], cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [word.strip() for word in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jitney ini", {"init"}),
        ("jitney serve --model-control-mode ", {"none", "poll", "explicit"}),
        ("jitney init m --backend ", {"onnx", "pytorch", "torchscript", "python", "handler"}),
        ("jitney serve --http-p", {"--http-port"}),
        ("jitney --model-s", {"--model-store"}),
        ("jitney check mod", {"models/"}),
    ],
)
def test_what_may_follow(line: str, words: set[str], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert set(pressed(line, tmp_path)) == words


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("argcomplete")
    assert main(["completion", shell]) == 0
    assert "_ARGCOMPLETE" in capsys.readouterr().out


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'jitney[completion]'" in capsys.readouterr().err


def test_every_command_is_completed() -> None:
    assert set(completion.MODULES) | {"serve"} == set(COMMANDS)
    for command in COMMANDS:
        assert command in completion.whole(partial(serve_parser, ()), command).format_help()
