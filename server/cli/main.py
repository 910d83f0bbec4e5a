"""The `jitney` command.

jitney demo                                serves a small model that comes with jitney, and shows what a client sends and gets
jitney init NAME --backend onnx …          writes a model to begin with, and says how to serve and ask it
jitney check DIR|FILE.mar …                says what is wrong with models, without serving them
jitney serve DIR …                         serve a folder of models or archives in the foreground; tritonserver's flags
jitney --start --model-store DIR …         torchserve's flags: start (detached), --stop, --version
jitney archive …                           torch-model-archiver's flags: make a model archive
jitney bench MODEL …                       a model's latency under load, beside what batching can reach
jitney tune MODEL …                        finds the parameters and number of workers that are fastest on this machine
jitney completion bash|zsh|fish            prints what makes a shell complete these commands

Called by another name, through a link, it is that command: `torchserve`, or `torch-model-archiver`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ... import __version__
from ...core.errors import InvalidConfig, NothingAnswers
from . import torchserve as torchserve_cli
from .serve import require_linux, serve
from .serve_parser import serve_parser


def _tool(module: str) -> Callable[[Sequence[str]], int]:
    """The command of a module that is imported when it is typed: somebody waits for the others."""

    def run(arguments: Sequence[str]) -> int:
        status: int = importlib.import_module(f"...{module}", __package__).main(list(arguments))
        return status

    return run


COMMANDS = {
    "demo": _tool("tools.first_steps"),
    "init": _tool("tools.init"),
    "check": _tool("tools.check.command"),
    "serve": serve,
    "archive": _tool("tools.archive"),
    "bench": _tool("tools.bench.command"),
    "tune": _tool("tools.tune.command"),
    "completion": _tool("server.cli.completion"),
}
#: What the names of other commands, which links to this one may have, stand for; without an argument, what the second says.
CALLED_AS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "torchserve": ([], ["--start"]),
    "torch-model-archiver": (["archive"], []),
}
#: Flags of torchserve's that people type as commands.
_FLAGS = ("start", "stop", "version", "help")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _typed() if argv is None else list(argv)
    if argv is None and "_ARGCOMPLETE" in os.environ:
        from .completion import answer

        answer(partial(serve_parser, ()))
    try:
        if arguments and arguments[0] in COMMANDS:
            _require_working_directory()
            return COMMANDS[arguments[0]](arguments[1:])
        if arguments in ([], ["help"], ["--help"], ["-h"]):
            print((__doc__ or "").strip() + f"\n\nEach takes --help. jitney {__version__}")
            return 0
        if arguments and not arguments[0].startswith("-"):
            print(f"jitney: {_unknown_command(arguments[0])}", file=sys.stderr)
            return 2
        require_linux()
        return torchserve_cli.main(arguments)
    except (InvalidConfig, NothingAnswers) as error:
        print(f"jitney: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _typed() -> list[str]:
    """The arguments of the command line, in front of which stands what the name of a link to this command means."""
    before, alone = CALLED_AS.get(Path(sys.argv[0]).name, ([], []))
    return [*before, *(sys.argv[1:] or alone)]


def _unknown_command(word: str) -> str:
    """What to type instead of a first word that is no command: the nearest one, or the flag of torchserve's that is called so."""
    near = difflib.get_close_matches(word.lower(), [*COMMANDS, *_FLAGS], n=1)
    meant = f"; did you mean `jitney {'--' * (near[0] in _FLAGS)}{near[0]}`?" if near else ""
    return f"unknown command '{word}', expected {', '.join(COMMANDS)} or torchserve's flags{meant}"


def _require_working_directory() -> None:
    """InvalidConfig where the folder that the command was typed in has been deleted: paths mean nothing there."""
    try:
        Path.cwd()
    except OSError as error:
        raise InvalidConfig(f"the working directory cannot be used: {error.strerror}; change into one that exists") from None
