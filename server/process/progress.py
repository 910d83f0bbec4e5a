"""`Progress`: what takes long, on the last line of a terminal, with the seconds that it has taken so far.

Where standard error is no terminal nothing is drawn: whoever works writes lines there as it goes. What else is written to the
terminal goes above the line (`above`), so that neither spoils the other.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

#: How often the line is drawn.
EVERY_S = 0.2
_CLEAR = "\r\x1b[K"
_COLUMNS = 80


class Task:
    """Something under way. `update` says how far it is; `total` 0 = not known."""

    def __init__(self, what: str, unit: int = 1, name: str = "") -> None:
        self._what, self._unit, self._name = what, unit, name
        self._began, self._far = time.monotonic(), ""

    def update(self, done: int, total: int = 0) -> None:
        of = f" of {total // self._unit}{self._name} ({100 * done // total} %)" if total else self._name
        self._far = f": {done // self._unit}{of}"

    def __str__(self) -> str:
        return f"{self._what}{self._far} · {time.monotonic() - self._began:.0f} s"


class Progress:
    """Threads: any. One thread draws while there is a task."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._given = stream
        self._lock = threading.RLock()
        self._tasks: list[Task] = []
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None

    @property
    def _stream(self) -> TextIO | None:
        return self._given or sys.stderr

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal that can show it."""
        stream = self._stream
        try:
            return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        except ValueError:  # it is closed
            return False

    @contextlib.contextmanager
    def task(self, what: str, unit: int = 1, name: str = "") -> Iterator[Task]:
        """Shows a task for as long as the block lasts. Numbers are shown in `unit`s, which are called `name`."""
        task = Task(what, unit, name)
        if not self.is_shown:
            yield task
            return
        with self._changed:
            self._tasks.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._draw_on, name="progress", daemon=True)
                self._thread.start()
        try:
            yield task
        finally:
            with self._changed:
                self._tasks.remove(task)
                self._draw()
                self._changed.notify()

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """What is written to the terminal in this block stands above the line."""
        with self._lock:
            if not self._tasks:
                yield
                return
            self._write(_CLEAR)
            yield
            self._draw()

    # -- with the lock -----------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        text = "; ".join(map(str, self._tasks))
        self._write(_CLEAR + text[: _columns(self._stream) - 1])

    def _write(self, text: str) -> None:
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # the terminal has gone
                stream.write(text)
                stream.flush()

    def _draw_on(self) -> None:
        with self._changed:
            while self._tasks:
                self._draw()
                self._changed.wait(EVERY_S)
            self._thread = None


def _columns(stream: TextIO | None) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream is not None else _COLUMNS
    except (OSError, ValueError, AttributeError):
        return _COLUMNS


#: This process'.
shown = Progress()


def say(text: str) -> None:
    """Writes a line to standard error, above what is shown there."""
    with shown.above():
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - what a command says of its work
