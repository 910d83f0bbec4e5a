"""TorchServe's launcher: starts and stops the server of this machine from a program."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Iterable

from jitney.server.cli.launcher import register_model, register_model_with_params, start, stop

__all__ = ["PrintTillTheEnd", "Tee", "register_model", "register_model_with_params", "start", "stop"]

_LINES = 1000


class Tee(threading.Thread):
    """Copies lines to two queues of 1000; lines beyond are dropped, and None ends each queue."""

    def __init__(self, reader: Iterable[str]) -> None:
        super().__init__(daemon=True)
        self.reader = reader
        self.queue1: queue.Queue[str | None] = queue.Queue(_LINES)
        self.queue2: queue.Queue[str | None] = queue.Queue(_LINES)

    def run(self) -> None:
        for line in self.reader:
            for copy in (self.queue1, self.queue2):
                with contextlib.suppress(queue.Full):
                    copy.put_nowait(line)
        for copy in (self.queue1, self.queue2):
            while copy.full():
                with contextlib.suppress(queue.Empty):
                    copy.get_nowait()
            copy.put_nowait(None)


class PrintTillTheEnd(threading.Thread):
    """Prints the lines of a queue until None comes."""

    def __init__(self, lines: queue.Queue[str | None]) -> None:
        super().__init__(daemon=True)
        self._queue = lines

    def run(self) -> None:
        while line := self._queue.get():
            sys.stdout.write(f"{line.strip()}\n")
