"""`WrittenTogether`: lines that come with every request, of access, of metrics and of models, reach their file some at a time.

By Python's own handlers a line costs four system calls and a record. A server started as TorchServe is writes eight lines for
each request, and what the model says. Here a line waits for `WAIT_SECONDS` at most. What a process had waiting is lost if it
is killed outright.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from .log_format import PlainFormatter

WAIT_SECONDS = 0.05
#: Characters that wait at most. Where the disk does not keep up, who logs writes them then, and waits for it.
MOST_WAITING = 1 << 20


class WrittenTogether(logging.Handler):
    """Hands `target` one record for many lines; it has the attribute `lines`, their number. `target` has no formatter."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self.target = target
        self._lines: list[str] = []
        self._size = 0
        self._second, self._time = 0, ""
        # As the standard library's handlers: a finalizer may log while its thread is in the middle of this.
        self._changing, self._writing = threading.RLock(), threading.RLock()
        self._come, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-files", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        """A warning and what is worse is written at once, behind what waits."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as the standard library's handlers
            self.handleError(record)
        else:
            self._wait([line])
            if record.levelno >= logging.WARNING:
                self.flush()

    def add(self, messages: Sequence[str]) -> None:
        """Lines without a record for each, with the time in front of them: for who has asked `plain`."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._time = time.strftime(PlainFormatter.default_time_format, time.localtime(second))
            self._second = second
        stamp = f"{self._time},{int((now - second) * 1000):03d} - "
        self._wait([stamp + message for message in messages])

    def _wait(self, lines: list[str]) -> None:
        with self._changing:
            first = not self._lines
            self._lines += lines
            self._size += sum(map(len, lines))
            full = self._size > MOST_WAITING
            if first and not self._thread.ident:
                self._thread.start()
        if full or self._ending.is_set():
            self.flush()
        elif first:
            self._come.set()

    def flush(self) -> None:
        """Writes what waits."""
        with self._writing:
            with self._changing:
                lines, self._lines, self._size = self._lines, [], 0
                if not self._ending.is_set():
                    self._come.clear()
            if lines:
                self.target.handle(logging.makeLogRecord({"msg": "\n".join(lines), "lines": len(lines)}))

    def _run(self) -> None:
        while not self._ending.is_set():
            self._come.wait()
            self._ending.wait(WAIT_SECONDS)
            self.flush()

    def close(self) -> None:
        """Writes what waits, and closes the target."""
        self._ending.set()
        self._come.set()
        self.flush()
        self.target.close()
        super().close()


def plain(logger: logging.Logger) -> WrittenTogether | None:
    """Where a logger's lines go, if it is there alone, and as `time - message`: then `add` takes the place of its methods."""
    handlers = logger.handlers
    handler = handlers[0] if len(handlers) == 1 and not logger.propagate else None
    plainly = isinstance(handler, WrittenTogether) and type(handler.formatter) is PlainFormatter and not logger.filters
    return handler if plainly else None  # type: ignore[return-value]


def write(logger: logging.Logger, messages: Sequence[str]) -> None:
    """A line for each message, as `logger.info` writes it."""
    if (file := plain(logger)) is not None:
        file.add(messages)
        return
    for message in messages:
        logger.info("%s", message)
