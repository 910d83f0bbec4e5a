"""What a model's files look like from outside: stamps that change when a file does. Nothing is read."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from pathlib import Path

from ....core.model_config import ModelConfig

#: Written by Python beside a model when it is imported; no change of the model.
IGNORED_FOLDERS = frozenset({"__pycache__"})

Stamp = tuple[str, int, int]


def stamps(directory: Path) -> Iterator[Stamp]:
    """(path, size, time) of every file below, in a stable order. Links are followed, a folder is looked at once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(directory, followlinks=True):
        try:
            stat = Path(folder).stat()
        except OSError:  # it goes while we look
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(set(folders) - IGNORED_FOLDERS)
        yield folder, 0, 0
        for file in sorted(files):
            path = Path(folder, file)
            try:
                stat = path.stat()
            except OSError:  # a link that leads nowhere, or a file that goes while we look
                continue
            yield str(path), stat.st_size, stat.st_mtime_ns


def version_stamp(config: ModelConfig) -> Hashable:
    """Changes when a file changes that this version may read: any of the model's but configurations and other versions."""
    directory = Path(config.directory)
    others = tuple(
        f"{entry}{os.sep}"
        for entry in (directory.iterdir() if directory.is_dir() else ())
        if (entry.name.isdecimal() and entry.name != config.version) or entry.name == "configs"
    )
    return tuple(
        entry
        for entry in stamps(directory)
        if not f"{entry[0]}{os.sep}".startswith(others) and entry[0] != str(directory / "config.pbtxt")
    )
