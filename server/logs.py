"""Where log lines go: the terminal, and TorchServe's five files where the server was started as TorchServe is.

| logger                 | file              | what                                                    |
|---|---|---|
| `jitney.access`        | access_log.log    | one line for each HTTP response                         |
| `jitney.model.*`       | model_log.log     | what workers print, and tracebacks of models            |
| `jitney.metrics`       | ts_metrics.log    | the server's metrics in log mode                        |
| `jitney.model_metrics` | model_metrics.log | handlers' metrics in log mode                           |
| `jitney.*`, the rest   | ts_log.log        | everything else                                         |
"""

from __future__ import annotations

import logging
import logging.config
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

FORMAT = "%(asctime)s [%(levelname)s] %(threadName)s %(name)s - %(message)s"
CONSOLE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FILES = {
    "jitney": "ts_log.log",
    "jitney.access": "access_log.log",
    "jitney.model": "model_log.log",
    "jitney.metrics": "ts_metrics.log",
    "jitney.model_metrics": "model_metrics.log",
}
#: TorchServe's log4j2.xml rolls at 100 MB and keeps five.
MAX_BYTES = 100 * 1024 * 1024
KEPT = 5
QUIET = ("jitney.access", "jitney.metrics", "jitney.model_metrics")


def configure(folder: Path | None, level: int = logging.INFO, console: bool = True) -> None:
    """Sends the log to the terminal (standard error) and, with a folder, to TorchServe's files in it.

    Access lines and metrics go to files only: on a terminal they would drown the rest.
    """
    logging.captureWarnings(True)
    root = logging.getLogger("jitney")
    root.setLevel(level)
    root.propagate = False
    if console:
        stream = logging.StreamHandler(sys.stderr)
        stream.setFormatter(logging.Formatter(CONSOLE_FORMAT))
        root.addHandler(stream)
    for name in QUIET:
        logging.getLogger(name).propagate = False
    if folder is None:
        for name in QUIET:
            logging.getLogger(name).disabled = True
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in FILES.items():
        handler = RotatingFileHandler(folder / file, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s - %(message)s" if name in QUIET else FORMAT))
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("jitney.model").propagate = False
    if console:
        logging.getLogger("jitney.model").addHandler(root.handlers[0])


def close() -> None:
    """Flushes and closes every handler of ours."""
    for name in FILES:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
