"""Every key of config.properties: from its reader in settings/keys.py, the docstring of `Settings`, and the commands' parsers."""

from __future__ import annotations

import argparse
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from ....server.cli import torchserve
from ....server.cli.no_meaning import without_meaning
from ....server.cli.serve_parser import serve_parser
from ....server.settings.grpc import FIELDS, GrpcSettings
from ....server.settings.keys import JITNEY, KEYS, RETIRED, SNAPSHOT_FACTS, TORCHSERVE, TRITON, Key, ts_env
from ....server.settings.settings import Settings
from ....server.settings.sources import FLAG_COMMANDS, FLAG_FIELDS, FLAG_KEYS
from . import code, table

#: Values that no reader takes, so that it says what it expects.
_REFUSED = ("\0", "(", "…")
#: Flags that are part of a key.
_PARTS = {
    "http_address": "inference_address",
    "http_port": "inference_address",
    "management_port": "management_address",
    "metrics_address": "metrics_address",
    "metrics_port": "metrics_address",
    "response_cache_byte_size": "cache_config",
}
GROUPS: Mapping[str, Mapping[str, Key]] = {"TorchServe's": TORCHSERVE, "Triton's": TRITON, "jitney's own": JITNEY}
HEAD = ("key", "meaning", "default", "values", "flag, environment")
#: Keys that hold a password.
_SECRET = ("keystore_pass",)


def meanings() -> dict[str, str]:
    """What each key means, from the docstrings of `Settings` and `GrpcSettings`."""
    settings, grpc = _fields(Settings), _fields(GrpcSettings)
    return settings | {key: grpc[field] for key, field in FIELDS.items() if field in grpc}


def _fields(described: type) -> dict[str, str]:
    """The lines `name  text` of a docstring."""
    lines = re.findall(r"^(\w+)  (\S.*)$", inspect.getdoc(described) or "", re.MULTILINE)
    return {name: text.strip() for name, text in lines}


def expected(key: Key) -> str:
    """Which values a key takes, in the words with which it refuses others."""
    for value in _REFUSED:
        try:
            key.read(value)
        except ValueError as error:
            text = str(error).removeprefix("expected ").partition(", got ")[0].partition(": ")[0].partition("; '")[0]
            return "text" if text.startswith("text without NUL") else text
    return "words separated by commas"


def flags() -> dict[str, list[str]]:
    """The command-line flags of each key, of `jitney serve` and of torchserve's command."""
    found: dict[str, list[str]] = defaultdict(list)
    for parser in (serve_parser(()), torchserve.parser()):
        for action in parser._actions:
            key = _key_of(action)
            if key in KEYS:
                found[key] += [option for option in action.option_strings if option not in found[key]]
    return found


def _key_of(action: argparse.Action) -> str:
    if action.dest in FLAG_COMMANDS | FLAG_FIELDS:
        return ""
    return _PARTS.get(action.dest) or FLAG_KEYS.get(action.dest, action.dest)


def _rows(keys: Mapping[str, Key]) -> Iterator[tuple[str, ...]]:
    said, typed = meanings(), flags()
    for name, key in keys.items():
        default = "…" if name in _SECRET else key.default or ""
        names = [*typed.get(name, []), f"JITNEY_{name.upper()}", ts_env(name)]
        yield (
            f"`{name}`",
            said[name],
            code(default),
            expected(key),
            ", ".join(code(each) for each in names if each),
        )


def settings() -> str:
    """The keys with a meaning, by whose they are."""
    return "\n\n".join(f"### {title}\n\n{table(HEAD, _rows(keys))}" for title, keys in GROUPS.items())


def without_effect() -> str:
    """The keys that are accepted and change nothing, with the reason."""
    found = [(f"`{name}`", key.meaningless) for name, key in KEYS.items() if key.meaningless]
    named = [(name, text) for name, text in found if name.strip("`") not in (*SNAPSHOT_FACTS, *RETIRED)]
    facts = [(f"`{name}`", "snapshots record it as a fact about the run") for name in SNAPSHOT_FACTS]
    return table(("key", "why"), [*named, *((f"`{name}`", text) for name, text in RETIRED.items()), *facts])


def flags_without_effect() -> str:
    """tritonserver's flags that are accepted and change nothing, with the reason."""
    return table(("flag", "why"), [(f"`{flag}`", why) for flag, why in sorted(without_meaning(()).items())])
