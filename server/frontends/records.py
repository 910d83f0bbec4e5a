"""What front ends count and log, entered into the scheduler's metrics and logs."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ...core.call import Times
from ..process.log_format import FIELDS
from .messages import Answered, Counted, Logged, Requested

if TYPE_CHECKING:
    from ..metrics.torchserve import TorchServeMetrics


def count(metrics: TorchServeMetrics, message: Counted | Requested | Answered) -> None:
    """Counts what a front end has counted."""
    if isinstance(message, Counted):
        for _ in range(message.count):
            metrics.responded(message.status)
    elif isinstance(message, Requested):
        metrics.requested(message.model, message.version)
    else:
        metrics.answered(message.model, message.version, _times_of(message))


def _times_of(message: Answered) -> Times:
    """The request's times as if it had been answered now: later by as long as the message took."""
    shift, known = max(0, time.monotonic_ns() - message.now), message.times
    return Times(
        message.arrived + shift,
        known.dispatched + shift if known.dispatched else 0,
        message.answered + shift,
        known.compute_input,
        known.compute_infer,
        known.compute_output,
    )


def write(message: Logged) -> None:
    """Writes a line of a front end's log where one of this process with the same logger would go."""
    logger = logging.getLogger(message.logger)
    if not logger.isEnabledFor(message.level):
        return
    record = logging.makeLogRecord(
        {
            "name": message.logger,
            "levelno": message.level,
            "levelname": logging.getLevelName(message.level),
            "msg": message.text,
            "threadName": message.thread,
            "created": message.created,
            "msecs": (message.created - int(message.created)) * 1000,
            "exc_text": message.exception or None,
            FIELDS: message.fields,
        }
    )
    logger.handle(record)
