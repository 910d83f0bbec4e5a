"""Trace and log settings over HTTP. What requests change lives in memory; no request can name a file."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import falcon

from ....core.errors import InvalidRequest, JitneyError, Unsupported
from ...process import logs
from .documents import Document, checked, parse, unsigned
from .resource import Resource, answers_errors, read_body, set_json

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane
    from ...tracing.settings import TraceSettings


class LogSettings:
    """Triton's log settings; they set the level of the server's loggers. Thread-safe. `level`, `file`, `form`: of the start."""

    def __init__(self, level: str = "info", file: str = "", form: str = "text") -> None:
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {
            "log_file": file,
            "log_info": level in ("debug", "info"),
            "log_warning": level in ("debug", "info", "warning"),
            "log_error": level != "critical",
            "log_verbose_level": int(level == "debug"),
            "log_format": "ISO8601" if form == "ISO8601" else "default",
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
            if "log_format" in changes:
                logs.show_iso_times(changes["log_format"] == "ISO8601")
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
