"""The `jitney` command: which words and flags it takes."""

from __future__ import annotations

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
