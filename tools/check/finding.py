"""`Finding`: one thing that a check says, in one line, and how what the server's own code says becomes one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

#: Whose remarks are notes; others' are about what they are doing.
_READER = "jitney.server.repository.triton"
#: How the server's sentences begin that name a place: `path:line: …`, `path: …`.
_PLACE = re.compile(r"(?P<path>/[^:\n]+?)(?::(?P<line>\d+))?: (?P<text>.+)", re.DOTALL)
_LEVELS: tuple[tuple[int, Severity], ...] = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "note"))


@dataclass(frozen=True)
class Finding:
    """`error`: the model will not be served so. `warning`: it will, but not as it may be meant. `note`: worth knowing.

    path, line  where, as far as that is known; "" and 0 where it is not
    model       the model's name, "" where it concerns none
    """

    severity: Severity
    text: str
    path: str = ""
    line: int = 0
    model: str = ""

    def __str__(self) -> str:
        place = f"{self.path}{f':{self.line}' if self.line else ''}: " if self.path else ""
        return f"{place}{self.severity}: {self.text}"

    def document(self) -> dict[str, Any]:
        return asdict(self)


def finding(severity: Severity, sentence: str, model: str = "", path: str = "") -> Finding:
    """A sentence of the server's; a place at its beginning becomes the finding's, else `path` is."""
    text = " ".join(sentence.split())
    match = _PLACE.fullmatch(text)
    if match is None:
        return Finding(severity, text, path, 0, model)
    return Finding(severity, match["text"], match["path"], int(match["line"] or 0), model)


class _Collector(logging.Handler):
    def __init__(self, found: list[Finding], model: str) -> None:
        super().__init__()
        self._found, self._model = found, model

    def emit(self, record: logging.LogRecord) -> None:
        severity = next((name for level, name in _LEVELS if record.levelno >= level), None)
        if severity is not None and (severity != "note" or record.name.startswith(_READER)):
            self._found.append(finding(severity, record.getMessage(), self._model))


@contextmanager
def logged(found: list[Finding], model: str = "") -> Iterator[None]:
    """What jitney logs meanwhile goes to `found`, and nowhere else."""
    log = logging.getLogger("jitney")
    level, propagate, handler = log.level, log.propagate, _Collector(found, model)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
