"""The flags of `jitney serve` that say what is logged and traced, tritonserver's among them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import Any

from ..settings import trace

TRACE_OPTIONS = {"--trace-config", *(f"--{name.replace('_', '-')}" for name in trace.FLAGS)}
#: tritonserver's switches of what is logged, and the level that is left where one is off.
_LEVELS = {"info": "warning", "warning": "error", "error": "critical"}


def add_logging(parser: argparse.ArgumentParser, switch: Callable[[str], bool]) -> None:
    """Adds the flags of the log. `switch` reads true and false."""
    add = parser.add_argument
    add("--log-format", metavar="FORMAT", help="text, json (one object a line), or ISO8601: text with such times (text)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical (info)")
    add("--log-file", metavar="FILE", help="where the log goes in place of the terminal")
    add("--access-log", metavar="WHERE", help="terminal: a line there for each answer (files: in TorchServe's files alone)")
    add("--log-verbose", type=int, nargs="?", const=1, metavar="N", help="above 0: the same as --log-level=debug")
    for name in _LEVELS:
        add(f"--log-{name}", type=switch, nargs="?", const=True, metavar="BOOL", help=argparse.SUPPRESS)
    add("--log-config", metavar="FILE", help="logging configuration: Python's dictConfig as JSON or YAML")


def log_level(flags: dict[str, Any]) -> dict[str, str]:
    """The level that tritonserver's switches ask for, where `--log-level` does not say one. Takes them out of the flags."""
    verbose, off = flags.pop("log_verbose", 0), [name for name in _LEVELS if flags.pop(f"log_{name}", True) is False]
    if "log_level" in flags or not (verbose or off):
        return {}
    left = [level for level in _LEVELS if level not in off]
    return {"log_level": "debug" if verbose else left[0] if left else "critical"}


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of tracing; the older ones say the same as an entry of the first."""
    parser.add_argument(
        "--trace-config",
        action="append",
        metavar="[MODE,]SETTING=VALUE",
        help="which requests are traced, and where traces go: mode, level, rate, count; triton,file; opentelemetry,url; …; "
        "repeatable (docs/tracing.md)",
    )
    for name in trace.FLAGS:
        parser.add_argument(f"--{name.replace('_', '-')}", action="append", metavar="VALUE", help=argparse.SUPPRESS)


def trace_config(flags: dict[str, Any]) -> dict[str, str]:
    """All entries as one setting. Takes them out of the flags."""
    entries: list[str] = flags.pop("trace_config", [])
    entries += [f"{entry}={value}" for name, entry in trace.FLAGS.items() for value in flags.pop(name, [])]
    return {"trace_config": " ".join(map(shlex.quote, entries))} if entries else {}
