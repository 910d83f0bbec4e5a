"""Which servers run that were started as `torchserve` is: one file for each, in the temporary folder.

    .model_server.UID.PID.pid     first line the pid, second line where its inference port listens

So every user, and every port, has servers of its own. A file whose server is gone is removed by the command that finds it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from ...core.errors import InvalidConfig


@dataclass(frozen=True)
class Running:
    """A server: its process, and the inference address that it was told."""

    process: psutil.Process
    address: str


def path_of(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f".model_server.{os.getuid()}.{pid}.pid"


def write(pid: int, address: str) -> None:
    """Says that this user's process `pid` serves `address`. InvalidConfig where the file cannot be written."""
    path = path_of(pid)
    try:
        whole = path.with_suffix(".new")  # readers find the whole file or none
        whole.unlink(missing_ok=True)  # left by a process that had this pid before
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(whole, flags, 0o600), "w") as file:  # noqa: PTH123 - the flags keep foreign links out
            file.write(f"{pid}\n{address}\n")
        whole.replace(path)
    except OSError as error:
        raise InvalidConfig(
            f"the pid file '{path}' cannot be written: {error.strerror}; TMPDIR in the environment names another folder"
        ) from None


def forget(pid: int) -> None:
    """Removes the file of a server that ends or has ended."""
    with contextlib.suppress(OSError):
        path_of(pid).unlink(missing_ok=True)


def running() -> list[Running]:
    """This user's servers that run, oldest first. Files of others are removed, which is said."""
    found = []
    for path in _files():
        server = _read(path)
        if server is not None:
            found.append(server)
            continue
        print("Removing orphan pid file.", file=sys.stderr)  # noqa: T201 - torchserve's text
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda server: server.process.create_time())


def _files() -> Iterator[Path]:
    """The files that this user wrote; another user could lay one under our name into a folder that all may write to."""
    for path in Path(tempfile.gettempdir()).glob(f".model_server.{os.getuid()}.*.pid"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid() and path.is_file():
                yield path


def _read(path: Path) -> Running | None:
    """The server that a file names, None where no such process runs."""
    try:
        pid, address = path.read_text().split("\n")[:2]
        process = psutil.Process(int(pid))
        alive = process.status() != psutil.STATUS_ZOMBIE and "jitney" in " ".join(process.cmdline())
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None
    return Running(process, address) if alive else None
