"""The `jitney` command: which words and flags it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jitney.server.cli.main import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: jitney {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"], ["-h"]])
def test_without_a_command_it_names_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert all(f"jitney {command} " in told for command in COMMANDS)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("sreve", "jitney serve"), ("Serve", "jitney serve"), ("start", "jitney --start"), ("version", "jitney --version")],
)
def test_an_unknown_command_is_named_with_the_nearest(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert f"unknown command '{word}'" in (said := capsys.readouterr().err) and f"did you mean `{meant}`?" in said


def test_a_command_like_no_other_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert "unknown command 'xyzzy'" in (said := capsys.readouterr().err) and "did you mean" not in said


@pytest.mark.parametrize("arguments", [["serve", "models"], ["--start", "--model-store", "store"]])
def test_on_another_system_it_says_so(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert main(arguments) == 1
    assert "a server needs Linux (memfd, epoll), and this is darwin" in capsys.readouterr().err


def test_a_link_called_torchserve_has_its_flags(tmp_path: Path) -> None:
    link = tmp_path / "torchserve"
    link.symlink_to(Path(sys.executable).parent / "jitney")
    told = subprocess.run([link, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.startswith("TorchServe Version is 0.12.0")


def test_a_link_called_torchserve_starts_when_nothing_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("jitney.server.cli.torchserve.main", lambda arguments: seen.append(list(arguments)) or 0)
    monkeypatch.setattr("sys.argv", ["/opt/bin/torchserve"])
    assert main() == 0 and seen == [["--start"]]


def test_a_link_called_torch_model_archiver_packs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handle(data, context): return data\n")
    arguments = ["--model-name", "m", "--version", "1.0", "--handler", str(tmp_path / "handler.py")]
    monkeypatch.setattr("sys.argv", ["torch-model-archiver", *arguments, "--export-path", str(tmp_path)])
    assert main() == 0 and (tmp_path / "m.mar").is_file()
