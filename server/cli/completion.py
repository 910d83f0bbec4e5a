"""`jitney completion SHELL`: what makes a shell complete jitney's commands and flags, by the package argcomplete.

    source <(jitney completion bash)                                 # in ~/.bashrc
    source <(jitney completion zsh)                                  # in ~/.zshrc, after compinit
    jitney completion fish > ~/.config/fish/completions/jitney.fish

The shell then runs `jitney` with _ARGCOMPLETE in the environment, and `answer` tells it what may follow.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from . import torchserve

SHELLS = ("bash", "zsh", "fish")
#: Where the parser of each command is made, but that of `serve`. They are imported when they are needed: somebody waits.
MODULES: Mapping[str, str] = {
    "demo": "tools.first_steps",
    "init": "tools.init",
    "check": "tools.check.command",
    "archive": "tools.archive",
    "bench": "tools.bench.options",
    "tune": "tools.tune.command",
    "completion": "server.cli.completion",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="jitney completion", description="Prints what makes a shell complete jitney's commands and flags."
    )
    made.add_argument("shell", choices=SHELLS)
    return made


def main(arguments: Sequence[str]) -> int:
    shell = parser().parse_args(list(arguments)).shell
    if importlib.util.find_spec("argcomplete") is None:
        print("jitney completion needs the package argcomplete: pip install 'jitney[completion]'", file=sys.stderr)
        return 1
    from argcomplete.shell_integration import shellcode

    print(shellcode(["jitney"], shell=shell))
    return 0


def answer(serve: Callable[[], argparse.ArgumentParser]) -> None:
    """Tells the shell what may follow, and ends the process. `serve` makes the parser of `jitney serve`."""
    import argcomplete

    typed = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(whole(serve, typed[1] if len(typed) > 1 else ""), always_complete_options="long")


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command of `MODULES`."""
    module = importlib.import_module(f"...{MODULES[command]}", __package__)
    made: argparse.ArgumentParser = module.parser()
    return made


def whole(serve: Callable[[], argparse.ArgumentParser], command: str) -> argparse.ArgumentParser:
    """One parser of all commands, of which `command` has its flags; where none is named, torchserve's flags."""
    made = argparse.ArgumentParser(prog="jitney", parents=[torchserve.parser()], add_help=False)
    commands = made.add_subparsers()
    for name in (*MODULES, "serve"):
        wanted = [serve() if name == "serve" else parser_of(name)] if name == command else []
        commands.add_parser(name, parents=wanted, add_help=False)
    return made
