"""Where log lines go: the terminal, and TorchServe's five files where the server was started as TorchServe is.

| logger                 | file              | folder           | what                                                    |
|---|---|---|---|
| `jitney.access`        | access_log.log    | LOG_LOCATION     | one line for each HTTP response                         |
| `jitney.model.*`       | model_log.log     | LOG_LOCATION     | what workers print, and tracebacks of models            |
| `jitney.*`, the rest   | ts_log.log        | LOG_LOCATION     | everything else                                         |
| `jitney.metrics`       | ts_metrics.log    | METRICS_LOCATION | the server's metrics in log mode                        |
| `jitney.model_metrics` | model_metrics.log | METRICS_LOCATION | handlers' metrics in log mode                           |

`--log-format json` makes one JSON object of each line, in all of these; `--log-file` names a file in place of the terminal, and
`--access-log terminal` shows the first of them there too. `--log-config` names a file that stands in place of all this: Python's
`logging.config.dictConfig` as JSON or YAML.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import os
import sys
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import yaml

from ...core.errors import InvalidConfig
from . import lost_lines, progress
from .log_format import JsonFormatter, PlainFormatter, TextFormatter
from .written_together import WrittenTogether

log = logging.getLogger(__name__)

FORMAT = "%(asctime)s [%(levelname)s] %(threadName)s %(name)s - %(message)s"
ACCESS_FORMAT = "%(asctime)s - %(message)s"
CONSOLE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FILES = {
    "jitney": "ts_log.log",
    "jitney.access": "access_log.log",
    "jitney.model": "model_log.log",
    "jitney.metrics": "ts_metrics.log",
    "jitney.model_metrics": "model_metrics.log",
}
METRICS = ("jitney.metrics", "jitney.model_metrics")
#: TorchServe's log4j2.xml rolls at 100 MB and keeps five.
MAX_BYTES = 100 * 1024 * 1024
KEPT = 5
QUIET = ("jitney.access", *METRICS)
#: Loggers that get lines with every request.
BUSY = (*QUIET, "jitney.model")
SILENT = logging.CRITICAL + 1


@dataclass(frozen=True)
class LogOptions:
    """format: text, ISO8601 (text with such times) or json. level: debug to critical. file: in place of the terminal, "" = none.
    access: whether access lines go there too. config: dictConfig's file."""

    format: str = "text"
    level: str = "info"
    file: str = ""
    access: bool = False
    config: str = ""

    def formatter(self, text: str) -> logging.Formatter:
        return JsonFormatter() if self.format == "json" else TextFormatter(text, iso=self.format == "ISO8601")

    def access_formatter(self, text: str) -> logging.Formatter:
        """Of access lines and metrics, which have a form of their own."""
        return JsonFormatter() if self.format == "json" else PlainFormatter(text)


def configure(folder: Path | None, metrics_folder: Path | None = None, options: LogOptions | None = None) -> None:
    """Sends the log to the terminal (standard error), or a file in its place, and, with a folder, to TorchServe's files in it.

    Access lines and metrics go to files only where nothing else is said: on a terminal they would drown the rest. InvalidConfig
    where a file cannot be written, or `options.config` cannot be read; TorchServe's own form of that, log4j2's XML, is passed
    over with a warning.
    """
    logging.captureWarnings(True)
    _configure(folder, metrics_folder, options or LogOptions())
    lost_lines.watch(lost_lines.all_handlers())


def _configure(folder: Path | None, metrics_folder: Path | None, options: LogOptions) -> None:
    log_config = options.config
    if log_config and not log_config.lower().endswith((".xml", ".properties")):
        _from_file(Path(log_config))
        return
    root = logging.getLogger("jitney")
    root.setLevel(options.level.upper())
    root.propagate = False
    terminal = _terminal(options.file)
    terminal.setFormatter(options.formatter(CONSOLE_FORMAT))
    root.addHandler(terminal)
    for name in QUIET:
        logging.getLogger(name).propagate = False
        # By its level: libraries that configure logging enable loggers which were only disabled.
        logging.getLogger(name).setLevel(SILENT if folder is None else logging.INFO)
    if options.access:
        shown = _terminal(options.file)
        shown.setFormatter(options.access_formatter(ACCESS_FORMAT))
        logging.getLogger("jitney.access").addHandler(shown)
        logging.getLogger("jitney.access").setLevel(logging.INFO)
    if folder is not None:
        _open_files(folder, metrics_folder or folder, options)
        logging.getLogger("jitney.model").propagate = False
        logging.getLogger("jitney.model").addHandler(terminal)
    if log_config:
        log.warning("--log-config %s has no effect: log4j2's form is not read here, expected JSON or YAML", log_config)


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error, above the line that shows progress."""

    def emit(self, record: logging.LogRecord) -> None:
        with progress.shown.above():
            super().emit(record)


def _terminal(file: str) -> logging.Handler:
    """Standard error, or the file in its place."""
    if not file:
        return TerminalHandler(sys.stderr)
    try:
        return logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise InvalidConfig(f"log_file {file}: cannot be written: {error.strerror}") from None


def _open_files(folder: Path, metrics_folder: Path, options: LogOptions) -> None:
    """Opens all five at once, as TorchServe does, so that they can be followed from the start."""
    for name, file in FILES.items():
        target = metrics_folder if name in METRICS else folder
        try:
            target.mkdir(parents=True, exist_ok=True)
            handler: logging.Handler = RotatingFileHandler(
                target / file, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8"
            )
        except OSError as error:
            variable = "METRICS_LOCATION" if name in METRICS else "LOG_LOCATION"
            raise InvalidConfig(
                f"the log file '{target / file}' cannot be written ({error.strerror}); {variable} in the environment names "
                "another folder"
            ) from None
        if name in BUSY:
            handler = WrittenTogether(handler)
        handler.setFormatter(options.access_formatter(ACCESS_FORMAT) if name in QUIET else options.formatter(FORMAT))
        logging.getLogger(name).addHandler(handler)


def _from_file(path: Path) -> None:
    try:
        text = path.read_text()
        found: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(found, dict):
            raise ValueError("expected keys and values")
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **found})
    except OSError as error:
        raise InvalidConfig(f"--log-config {path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, ImportError, yaml.YAMLError) as error:
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise InvalidConfig(f"--log-config {path}: expected logging.config.dictConfig as JSON or YAML: {reason}") from None


def show_iso_times(shown: bool) -> None:
    """Has lines of text say their times as ISO 8601 from now on, or as Python does."""
    for name in ("jitney", *FILES):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler.formatter, TextFormatter):
                handler.formatter.iso = shown


def close() -> None:
    """Flushes and closes every handler of ours. What standard output and error do not take is dropped: Python would end with
    another status for it."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed before the start
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
    for name in FILES:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # what a full disk does not take has been told
                handler.close()
