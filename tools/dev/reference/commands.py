"""Every command with its flags: from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from ....server.cli import completion, torchserve
from ....server.cli.serve_parser import serve_parser
from . import table


def parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parsers by what is typed."""
    order = ("demo", "init", "check", "serve", "archive", "bench", "tune", "completion")
    named = {f"jitney {name}": serve_parser(()) if name == "serve" else completion.parser_of(name) for name in order}
    return {**named, "jitney --start, --stop": torchserve.parser()}


def commands() -> str:
    return "\n\n".join(
        f"### {title}\n\n{table(('argument', 'what it does'), _rows(each))}" for title, each in parsers().items()
    )


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        about = formatter._expand_help(action) if action.help else ""
        yield f"`{_written(action)}`", about + _choices(action, about)


def _written(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper() if action.nargs != 0 else ""
    value = "…" if action.choices and not action.metavar else value
    if not action.option_strings:
        return f"{value}{' …' * (action.nargs in ('*', '+'))}"
    return f"{', '.join(action.option_strings)} {value}".strip()


def _choices(action: argparse.Action, about: str) -> str:
    """The values that there are, where the help does not say them."""
    choices = [str(each) for each in action.choices or ()]
    if not choices or all(each in about for each in choices):
        return ""
    return f"{'; ' if about else ''}one of {', '.join(choices)}"
