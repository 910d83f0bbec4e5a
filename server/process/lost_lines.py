"""Log lines that cannot be written, because the disk is full or the terminal gone: said once, counted, and said when it is over.

Python's own handlers print a traceback for each such line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any


def watch(handlers: Iterable[logging.Handler]) -> None:
    """Lets each of these handlers account for what it loses; one that is watched already is left as it is."""
    for handler in handlers:
        if not isinstance(getattr(handler, "handleError", None), LostLines):
            setattr(handler, "handleError", LostLines(handler))  # noqa: B010 - a method is replaced, on this object alone
            setattr(handler, "emit", _Emit(handler, handler.emit))  # noqa: B010


def all_handlers() -> set[logging.Handler]:
    """The handlers of all loggers that there are, and those that they hand records on to."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    found = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    targets = [getattr(handler, "target", None) for handler in found]
    return {*found, *(target for target in targets if isinstance(target, logging.Handler))}


class LostLines:
    """Stands in for `Handler.handleError`. `count` lines are lost since the handler could write last.

    The handler's lock is held whenever it is called.
    """

    def __init__(self, handler: logging.Handler) -> None:
        self.count = 0
        self._handler = handler
        self._usual: Any = handler.handleError

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self._usual(record)  # a defect in the call: the traceback names it
            return
        first = not self.count
        self.count += getattr(record, "lines", 1)
        if first:
            _tell(f"{_target(self._handler)} cannot be written: {error.strerror or error}; lines are lost until it can")


class _Emit:
    """Stands in for `Handler.emit`, to notice that lines can be written again."""

    def __init__(self, handler: logging.Handler, emit: Any) -> None:
        self._handler, self._emit = handler, emit

    def __call__(self, record: logging.LogRecord) -> None:
        lost: Any = self._handler.handleError
        before = lost.count
        self._emit(record)
        if before and lost.count == before:
            lost.count = 0
            _tell(f"{_target(self._handler)} can be written again; {before} lines were lost")


def _target(handler: logging.Handler) -> str:
    path = getattr(handler, "baseFilename", "")
    return f"the log file '{path}'" if path else f"the log ({type(handler).__name__})"


def _tell(text: str) -> None:
    """To standard error itself: a log that fails cannot report that it fails."""
    try:
        print(f"jitney: {text}", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:  # there is no way to tell, and serving does not depend on it
        return
