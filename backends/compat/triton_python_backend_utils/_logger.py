"""`Logger`: a Python model's way into the server's log."""

from __future__ import annotations

import enum
import logging
from typing import Any, ClassVar

from ._arguments import WrongArgument

log = logging.getLogger("jitney.python_model")


class LogLevel(enum.IntEnum):
    """Triton's levels, with its numbers (pb_log.h)."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


_LEVELS = {
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.VERBOSE: logging.DEBUG,
}


class Logger:
    """Messages of the model, with Triton's levels. VERBOSE goes to the debug level of the server's log."""

    LogLevel: ClassVar = LogLevel
    INFO: ClassVar = LogLevel.INFO
    WARNING: ClassVar = LogLevel.WARNING
    ERROR: ClassVar = LogLevel.ERROR
    VERBOSE: ClassVar = LogLevel.VERBOSE

    @staticmethod
    def log(message: Any, level: Any = LogLevel.INFO) -> None:
        """Logs text, bytes as text, and whatever else as `str` shows it. WrongArgument for a level that is none."""
        try:
            number = _LEVELS[LogLevel(level)]
        except ValueError:
            names = ", ".join(f"Logger.{each.name}" for each in LogLevel)
            raise WrongArgument(f"unknown log level {level!r}, expected one of {names}") from None
        text = message.decode(errors="replace") if isinstance(message, bytes | bytearray) else message
        log.log(number, "%s", text)

    @staticmethod
    def log_info(message: Any) -> None:
        Logger.log(message, LogLevel.INFO)

    @staticmethod
    def log_warn(message: Any) -> None:
        Logger.log(message, LogLevel.WARNING)

    @staticmethod
    def log_error(message: Any) -> None:
        Logger.log(message, LogLevel.ERROR)

    @staticmethod
    def log_verbose(message: Any) -> None:
        Logger.log(message, LogLevel.VERBOSE)
