"""Groups of routes that need a header (tritonserver's `--http-restricted-api`). Pure.

TorchServe's routes fall into the same groups, so that closing `inference` closes `/predictions` too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

#: Triton's names of the groups.
GROUPS = (
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
)
Restrictions = Mapping[str, tuple[str, str]]
"""Group -> (header, value that it must have)."""

_ENTRY = re.compile(r"([a-z,-]+):([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(.+)")
#: The last segments of KServe routes of one model.
_OF_A_MODEL = {
    "ready": "health",
    "config": "model-config",
    "stats": "statistics",
    "infer": "inference",
    "explain": "inference",
    "generate": "inference",
    "generate_stream": "inference",
}
_OF_THE_SERVER = {
    "health": "health",
    "repository": "model-repository",
    "systemsharedmemory": "shared-memory",
    "cudasharedmemory": "shared-memory",
    "trace": "trace",
    "logging": "logging",
}
_PREDICTING = ("predictions", "explanations", "invocations")


def parse(value: str) -> Restrictions:
    """`group,group:header=value`, several separated by blanks; ValueError with what was expected."""
    found: dict[str, tuple[str, str]] = {}
    for entry in value.split():
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"expected group,…:header=value (several separated by blanks), got '{entry}'")
        for group in match[1].split(","):
            if group not in GROUPS:
                raise ValueError(f"expected groups out of {', '.join(GROUPS)}, got '{group}'")
            if group in found:
                raise ValueError(f"expected each group once, got '{group}' again")
            found[group] = match[2], match[3]
    return MappingProxyType(found)


def group_of(method: str, path: str) -> str | None:
    """The group of a percent-decoded path, None for paths that no route has."""
    first, *rest = path.strip("/").split("/")
    if first == "v2":
        return _kserve(rest)
    if first in _PREDICTING or (rest and rest[-1] in ("predict", "invoke")) or path.endswith((":predict", ":explain")):
        return "inference"
    if first == "ping":
        return "health"
    if first in ("metrics", "status.json"):
        return "statistics"
    if first == "status":  # what the page asks models is in the group of what it stands for
        return group_of(method, "/".join(rest[1:])) if rest[:1] == ["try"] else None
    if first in ("models", "v1", "workflows"):
        return "metadata" if method in ("GET", "HEAD", "OPTIONS") and rest[-1:] != ["set-default"] else "model-repository"
    return "metadata" if first in ("", "api-description", "openapi.json", "docs") else None


def _kserve(segments: list[str]) -> str | None:
    if not segments:
        return "metadata"
    if segments[0] != "models":
        return _OF_THE_SERVER.get(segments[0])
    if segments == ["models", "stats"]:
        return "statistics"
    if segments[-2:] == ["trace", "setting"]:
        return "trace"
    tail = segments[2:]  # behind the model's name
    if tail[:1] == ["versions"]:
        tail = tail[2:]
    return _OF_A_MODEL.get(tail[0]) if tail else "metadata"
