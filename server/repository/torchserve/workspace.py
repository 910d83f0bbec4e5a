"""`Workspace`: the folder under the system's temporary one that holds what one server has unpacked.

The server holds a lock on it while it lives, so that the next server can tell what a killed one left behind, and removes it.
Others may remove it too: many systems clear their temporary folder of what is some days old. Then there is a new one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
import uuid
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "jitney-models-"
LOCK = ".lock"


class Workspace:
    """Folders named by chance, below a root that is made when the first is asked for, or when it has gone. Threads: any."""

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or Path(tempfile.gettempdir())
        self._lock = threading.Lock()
        self._roots: dict[Path, int] = {}  # with the descriptor that holds its lock; the last is in use

    def make(self) -> Path:
        """A new, empty folder. OSError where none can be made."""
        with self._lock:
            root = next(reversed(self._roots), None)
            if root is None or not root.is_dir():
                remove_abandoned(self._base)
                root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._base))
                self._roots[root] = _lock(root)
        folder = root / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        return folder

    def remove(self, folder: Path) -> None:
        """Removes a folder that `make` made; ValueError for any other."""
        if folder.parent not in self._roots:
            raise ValueError(f"'{folder}' is not a folder of this workspace")
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes everything; the workspace can be used again."""
        with self._lock:
            roots, self._roots = self._roots, {}
        for root, held in roots.items():
            shutil.rmtree(root, ignore_errors=True)
            os.close(held)


def _lock(root: Path) -> int:
    """The descriptor that holds the lock on a root; where it cannot be had, there is no root either."""
    try:
        descriptor = os.open(root / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        root.rmdir()
        raise
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def remove_abandoned(base: Path) -> None:
    """Removes the workspaces of this user whose servers are gone."""
    for root in base.glob(f"{PREFIX}*"):
        try:
            if root.is_symlink() or root.stat().st_uid != os.geteuid():
                continue
            descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # made this moment and not locked yet, or gone
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root, ignore_errors=True)
            log.info("removed '%s', which a server that was killed left behind", root)
        except OSError:
            pass  # its server lives
        finally:
            os.close(descriptor)
