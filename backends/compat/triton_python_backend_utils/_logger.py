"""`Logger`: a Python model's way into the server's log."""

from __future__ import annotations

import logging
from typing import ClassVar

log = logging.getLogger("jitney.python_model")


class Logger:
    """Messages of the model, with Triton's levels. VERBOSE goes to the debug level of the server's log."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3

    LEVELS: ClassVar = {INFO: logging.INFO, WARNING: logging.WARNING, ERROR: logging.ERROR, VERBOSE: logging.DEBUG}

    @staticmethod
    def log(message: str, level: int = INFO) -> None:
        log.log(Logger.LEVELS[level], "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        Logger.log(message, Logger.INFO)

    @staticmethod
    def log_warn(message: str) -> None:
        Logger.log(message, Logger.WARNING)

    @staticmethod
    def log_error(message: str) -> None:
        Logger.log(message, Logger.ERROR)

    @staticmethod
    def log_verbose(message: str) -> None:
        Logger.log(message, Logger.VERBOSE)
