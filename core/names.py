"""Names and relative paths that come from outside and reach the file system: one rule for all of them.

A model's name is a folder's name, a part of URLs and a label of metrics. TorchServe's archiver allows
`[A-Za-z0-9][A-Za-z0-9_.-]*`; Triton's users also have a leading underscore and `+ = @ : ~` in names. Spaces, slashes, control
characters, names of dots and hidden folders are refused.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from .errors import InvalidConfig, InvalidRequest, JitneyError

MAX_NAME = 128
_SAFE = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.+=@:~-]{{0,{MAX_NAME - 1}}}")


def is_safe_name(name: str) -> bool:
    return _SAFE.fullmatch(name) is not None


def safe_name(name: str, error: type[JitneyError] = InvalidRequest) -> str:
    """`name` itself when it may become a part of a path; raises `error` otherwise."""
    if is_safe_name(name):
        return name
    shown = name if len(name) <= MAX_NAME else name[:MAX_NAME] + "…"
    raise error(
        f"invalid name {shown!r}: expected 1 to {MAX_NAME} characters of A-Z a-z 0-9 _ . + = @ : ~ -, "
        "the first of them a letter, a digit or _"
    )


def relative_path(path: str, error: type[JitneyError] = InvalidConfig) -> PurePosixPath:
    """`path` when it is relative and stays below its base by its letters alone (symbolic links are not looked at)."""
    parts = path.split("/")
    if "\0" in path or "" in parts or "." in parts or ".." in parts:
        raise error(f"invalid path {path[:256]!r}: expected a relative path without '.', '..', '//' and NUL")
    return PurePosixPath(path)


def inside(base: Path, path: str, error: type[JitneyError] = InvalidConfig) -> Path:
    """The absolute path of `path` below `base`, links resolved; raises `error` where that lies outside of `base`.

    The file need not exist. A link inside of `base` may point to another place inside of it.
    """
    root = base.resolve()
    try:
        target = (root / relative_path(path, error)).resolve()
    except (OSError, RuntimeError) as problem:  # a circle of links, a name that is too long
        raise error(f"invalid path {path[:256]!r}: {problem}") from problem
    if not target.is_relative_to(root) or target == root:
        raise error(f"invalid path {path[:256]!r}: it leads out of '{base}'")
    return target
