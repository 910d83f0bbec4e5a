"""`jitney completion SHELL`: what makes a shell complete jitney's commands and flags, by the package argcomplete.

    source <(jitney completion bash)                                 # in ~/.bashrc
    source <(jitney completion zsh)                                  # in ~/.zshrc, after compinit
    jitney completion fish > ~/.config/fish/completions/jitney.fish

The shell then runs `jitney` with _ARGCOMPLETE in the environment, and `answer` tells it what may follow.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence

from ...tools import archive, first_steps, init
from ...tools.bench import options as bench
from ...tools.check import command as check
from ...tools.tune import command as tune
from . import torchserve

SHELLS = ("bash", "zsh", "fish")
#: Set by the shell that asks for completions.
ASKED = "_ARGCOMPLETE"


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

    argcomplete.autocomplete(whole(serve()), always_complete_options="long")


def parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command but `serve`."""
    return {
        "demo": first_steps.parser(),
        "init": init.parser(),
        "check": check.parser(),
        "archive": archive.parser(),
        "bench": bench.parser(),
        "tune": tune.parser(),
        "completion": parser(),
    }


def whole(serve: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """One parser of all commands; where none is named, torchserve's flags."""
    made = argparse.ArgumentParser(prog="jitney", parents=[torchserve.parser()], add_help=False)
    commands = made.add_subparsers()
    for name, each in {**parsers(), "serve": serve}.items():
        commands.add_parser(name, parents=[each], add_help=False)
    return made
