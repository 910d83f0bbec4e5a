"""How a log line is written: as text, or as one JSON object a line; and what it says of the request that it concerns.

A line that concerns a request is logged with `extra=about(…)`. As text its ids stand at its end, as JSON they are fields.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

import orjson

#: The attribute of a record that holds the fields.
FIELDS = "jitney_fields"
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_IDS = ("request_id", "request_ids", "trace_id")


def about(request_id: str = "", traceparent: str | None = None, **fields: Any) -> dict[str, Any]:
    """`extra` of a line about a request: its id, and the trace that its client's header traceparent names."""
    found = dict(fields)
    if request_id:
        found["request_id"] = request_id
    if traceparent and (match := _TRACE.fullmatch(traceparent)) is not None:
        found["trace_id"] = match[1]
    return {FIELDS: found}


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What was said of the request; empty where the line concerns none."""
    found: Mapping[str, Any] = getattr(record, FIELDS, None) or {}
    return found


class PlainFormatter(logging.Formatter):
    """Python's own lines, with the local time as log4j2 writes it for TorchServe: `2026-11-28T14:33:53,238`."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"


class TextFormatter(PlainFormatter):
    """The same with the ids at the end of the message. `iso`: times as ISO 8601 in UTC."""

    def __init__(self, text: str, *, iso: bool = False) -> None:
        super().__init__(text)
        self.iso = iso

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - Python's name
        return _iso(record.created) if self.iso else super().formatTime(record, datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - Python's name
        ids = [f"{name}={_short(value)}" for name, value in fields_of(record).items() if name in _IDS]
        return super().formatMessage(record) + (f" [{' '.join(ids)}]" if ids else "")


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `thread`, `message`, the fields of a request, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if exception := traceback_of(record):
            found["exception"] = exception
        return orjson.dumps(found, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def traceback_of(record: logging.LogRecord) -> str:
    """The exception of a record with its traceback, "" where there is none."""
    if record.exc_info and record.exc_info[0] is not None:
        return logging.Formatter().formatException(record.exc_info)
    return record.exc_text or ""


def _iso(created: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(created))}.{int(created % 1 * 1000):03d}Z"


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
