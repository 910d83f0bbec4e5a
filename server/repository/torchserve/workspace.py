"""`Workspace`: the folder under the system's temporary one that holds what one server has unpacked.

The server holds a lock on it while it lives, so that the next server can tell what a killed one left behind, and removes it.
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
    """Folders named by chance, below one root that is made when the first is asked for. Threads: any."""

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or Path(tempfile.gettempdir())
        self._lock = threading.Lock()
        self._root: Path | None = None
        self._held = -1

    def make(self) -> Path:
        """A new, empty folder."""
        with self._lock:
            if self._root is None:
                remove_abandoned(self._base)
                self._root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._base))
                self._held = _lock(self._root)
        folder = self._root / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        return folder

    def remove(self, folder: Path) -> None:
        """Removes a folder that `make` made; ValueError for any other."""
        if self._root is None or folder.parent != self._root:
            raise ValueError(f"'{folder}' is not a folder of this workspace")
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes everything; the workspace can be used again."""
        with self._lock:
            root, self._root = self._root, None
            if root is not None:
                shutil.rmtree(root, ignore_errors=True)
                os.close(self._held)


def _lock(root: Path) -> int:
    descriptor = os.open(root / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
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
