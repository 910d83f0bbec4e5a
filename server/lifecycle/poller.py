"""Control mode "poll": a thread that looks at the repository's folders and loads, reloads and unloads what changed there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from typing import Protocol

from ...core.errors import JitneyError

log = logging.getLogger(__name__)


class Folders(Protocol):
    """The repository, as polling needs it."""

    def names(self) -> list[str]: ...

    def fingerprint(self, name: str) -> Hashable: ...


class ReloadControl(Protocol):
    """Who loads and unloads."""

    def reload(self, model: str) -> None: ...

    def remove(self, model: str) -> None: ...


class Poller:
    """Compares the folders with what was there when each model was last loaded, or could not be: `seen`.

    A model that cannot be loaded is tried again when a file of it changes. Threads: its own, between `start` and `close`;
    `look` is for it, or for a test, alone. A load notes in `seen` what it is about to read.
    """

    def __init__(self, folders: Folders, control: ReloadControl) -> None:
        self._folders, self._control = folders, control
        self.seen: dict[str, Hashable] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, seconds: float) -> None:
        """Begins to look every `seconds`."""
        self._thread = threading.Thread(target=self._run, args=(seconds,), name="repository-poll", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                self.look()
            except Exception:  # a folder that went away for a moment must not end the polling
                log.exception("the model repository could not be read")

    def look(self) -> None:
        """Acts on every difference since the last look."""
        found = {name: self._folders.fingerprint(name) for name in self._folders.names()}
        for name in sorted(self.seen.keys() - found.keys()):
            del self.seen[name]
            self._control.remove(name)
        for name, fingerprint in sorted(found.items(), key=lambda pair: pair[0]):
            if self.seen.get(name) == fingerprint or self._stop.is_set():
                continue
            self.seen[name] = fingerprint
            try:
                self._control.reload(name)
            except JitneyError as error:
                log.error("model '%s' could not be loaded: %s", name, error)
