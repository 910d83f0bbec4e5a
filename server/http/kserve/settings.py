"""Trace and log settings over HTTP. They live in memory; no request can name a file."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import falcon

from ....core.errors import InvalidRequest, JitneyError, Unsupported
from .documents import Document, checked, parse, unsigned
from .resource import Resource, answers_errors, read_body, set_json

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane

log = logging.getLogger(__name__)

_TRACE_DEFAULTS: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
_TRACE_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS", "MIN", "MAX")
_NUMBER = re.compile(r"-?[0-9]{1,18}")


class TraceSettings:
    """Triton's trace settings, of the server and of models that differ from it. Thread-safe. No traces are written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: dict[str, Any] = {}
        self._models: dict[str, dict[str, Any]] = {}

    def get(self, model: str | None = None) -> dict[str, Any]:
        """What holds for the server, or for one model."""
        with self._lock:
            return _TRACE_DEFAULTS | self._server | self._models.get(model or "", {})

    def update(self, document: Document, model: str | None = None) -> dict[str, Any]:
        """Changes the settings given, a null returning one to its parent's value; raises InvalidRequest, Unsupported."""
        changes = {name: _trace_value(name, value) for name, value in document.items()}
        with self._lock:
            own = self._models.setdefault(model, {}) if model else self._server
            for name, value in changes.items():
                if value is None:
                    own.pop(name, None)
                else:
                    own[name] = value
        if changes.get("trace_level") not in (None, ["OFF"]):
            log.warning("trace settings are kept and shown, but no traces are written")
        return self.get(model)


def _trace_value(name: str, value: Any) -> Any:
    match name:
        case "trace_file":
            raise Unsupported("trace file location can not be updated through network protocol")
        case "trace_mode":
            raise Unsupported("trace mode can not be updated through network protocol")
        case _ if value is None and name in _TRACE_DEFAULTS:
            return None
        case "trace_level":
            levels = [value] if isinstance(value, str) else value
            if not isinstance(levels, list) or not levels or any(level not in _TRACE_LEVELS for level in levels):
                raise InvalidRequest(
                    f"Unable to parse 'trace_level', got: {value}; expected some of {', '.join(_TRACE_LEVELS)}"
                )
            return levels
        case "trace_rate" | "trace_count" | "log_frequency":
            text = str(value) if type(value) in (int, str) else ""
            if not _NUMBER.fullmatch(text):
                raise InvalidRequest(f"Unable to parse '{name}', got: {value}")
            return text
        case _:
            raise InvalidRequest(f"unknown trace setting '{name}'; expected some of {', '.join(_TRACE_DEFAULTS)}")


class LogSettings:
    """Triton's log settings; they set the level of the server's loggers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {
            "log_file": "",
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            "log_format": "default",
        }

    def get(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._values)

    def update(self, document: Document) -> dict[str, Any]:
        """Changes the settings given; raises InvalidRequest, or Unsupported for the file."""
        changes = {name: self._value(name, value) for name, value in document.items()}
        with self._lock:
            self._values |= changes
            if changes:
                logging.getLogger("jitney").setLevel(self._level())
            return dict(self._values)

    def _value(self, name: str, value: Any) -> Any:
        match name:
            case "log_file":
                raise Unsupported("log file location can not be updated through network protocol")
            case "log_info" | "log_warning" | "log_error":
                return checked(value, name, bool)
            case "log_verbose_level":
                return unsigned(value, name)
            case "log_format":
                if value not in ("default", "ISO8601"):
                    raise InvalidRequest(f"invalid argument for --log_format, got: {value}")
                return value
            case _:
                raise InvalidRequest(f"unknown log setting '{name}'; expected some of {', '.join(self._values)}")

    def _level(self) -> int:
        levels = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
        wanted = [level for name, level in levels.items() if self._values[name]]
        return logging.DEBUG if self._values["log_verbose_level"] else min(wanted, default=logging.CRITICAL)


class Trace(Resource):
    def __init__(self, dataplane: DataPlane, settings: TraceSettings, limit: int) -> None:
        self._dataplane, self._settings, self._limit = dataplane, settings, limit

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str | None = None) -> None:
        self._check(model)
        set_json(resp, self._settings.get(model))

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str | None = None) -> None:
        self._check(model)
        set_json(resp, self._settings.update(parse(read_body(req, self._limit)), model))

    def _check(self, model: str | None) -> None:
        if model is None:
            return
        try:
            self._dataplane.config(model, None)
        except JitneyError:
            raise InvalidRequest(f"Request for unknown model : {model}") from None


class Logging(Resource):
    def __init__(self, settings: LogSettings, limit: int) -> None:
        self._settings, self._limit = settings, limit

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        set_json(resp, self._settings.get())

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        set_json(resp, self._settings.update(parse(read_body(req, self._limit))))
