"""The thread that reads: a listener's loop that also reads what workers send, so that an answer wakes one thread and not two.

A worker's reader lends its socket to one of the process' reactors, if there is one, and sleeps until it gets it back. Two threads
that take turns with every batch would hand Python's interpreter lock to each other at every system call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Reactor(Protocol):
    """A loop over sockets, in one thread."""

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        """From now on calls `serve` whenever there is input, in the loop's thread; any thread may ask.

        `serve` must not block. Once it returned False, or when the loop ends, the descriptor is let go and `lost` is called.
        False where the loop has ended: then nothing is called.
        """


class Reactors:
    """The loops of one process that offer to read for others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered: list[Reactor] = []

    def offer(self, reactor: Reactor) -> None:
        """A loop that has started offers itself."""
        with self._lock:
            self._offered.append(reactor)

    def withdraw(self, reactor: Reactor) -> None:
        """It is about to end."""
        with self._lock:
            if reactor in self._offered:
                self._offered.remove(reactor)

    def current(self) -> Reactor | None:
        """The one that offered itself last, None where there is none."""
        with self._lock:
            return self._offered[-1] if self._offered else None
