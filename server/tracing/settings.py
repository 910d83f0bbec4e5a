"""`TraceSettings`: Triton's trace settings, of the server and of models that differ from it, as requests read and change them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import InvalidRequest, Unsupported
from ..settings.trace import LEVELS, MAX_COUNT, MAX_RATE, OFF, OPENTELEMETRY, TENSORS, TraceConfig, levels_of, problem
from .record import TraceRecord
from .sampling import Rule

_NUMBER = re.compile(r"-?[0-9]{1,18}")
_RANGES = {"trace_rate": (0, MAX_RATE), "log_frequency": (0, MAX_RATE), "trace_count": (-1, MAX_COUNT)}
_NAMES = ("trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode")
_INVALID = "Attempting to set invalid trace setting :"


class TraceSettings:
    """Thread-safe. `on_change` is called without the lock when other rules hold."""

    def __init__(self, config: TraceConfig | None = None) -> None:
        self.config = config = config or TraceConfig()
        self.on_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._defaults: dict[str, Any] = {
            "trace_level": list(config.level),
            "trace_rate": str(config.rate),
            "trace_count": str(config.count),
            "log_frequency": str(config.log_frequency),
            "trace_file": config.file,
            "trace_mode": config.mode,
        }
        self._own: dict[str, dict[str, Any]] = {"": {}}  # by model, "" of the server
        self._left: dict[str, int] = {}  # traces that may still be made, of those that differ from what was set

    def get(self, model: str | None = None) -> dict[str, Any]:
        """What holds for the server, or for one model. `trace_count` is what is left of it (Triton)."""
        with self._lock:
            return self._get(model or "")

    def _get(self, model: str) -> dict[str, Any]:
        found = self._defaults | self._own[""] | self._own.get(model, {})
        left = self._left.get(model if self._own.get(model) else "")
        return found if left is None else found | {"trace_count": str(left)}

    def update(self, document: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
        """Changes the settings given, a null returning one to its parent's value; raises InvalidRequest, Unsupported."""
        changes = {name: _value(name, value) for name, value in document.items()}
        scope = model or ""
        with self._lock:
            own = {**self._own.get(scope, {}), **changes}
            own = {name: value for name, value in own.items() if value is not None}
            self._check(self._defaults | self._own[""] | own)
            self._own[scope] = own
            if not own and scope:
                del self._own[scope]
            if changes:
                self._left.pop(scope, None)
        if changes:
            self.on_change()
        return self.get(model)

    def _check(self, found: Mapping[str, Any]) -> None:
        reason = problem(found["trace_mode"], tuple(found["trace_level"]), int(found["trace_rate"]), found["trace_file"])
        if reason:
            raise InvalidRequest(_INVALID + reason)

    # -- what comes of them ------------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Rule]:
        """The rules that hold; none where nothing is to be traced."""
        with self._lock:
            found = {model: _rule(self._get(model)) for model in self._own}
        return found if any(rule.rate or rule.follows for rule in found.values()) else {}

    def count(self, record: TraceRecord) -> bool:
        """Counts a trace; false where as many as `trace_count` have been made. Those of clients that trace do not count."""
        if not record.chosen:
            return True
        model = record.execution.model if record.execution is not None else ""
        with self._lock:
            scope = model if self._own.get(model) else ""
            left = int(self._get(scope)["trace_count"])
            if left > 0:
                self._left[scope] = left - 1
        if left == 1:
            self.on_change()
        return left != 0

    def log_frequency(self) -> int:
        """Traces in each numbered file, 0 = one file."""
        return int(self.get()["log_frequency"])


def _rule(found: Mapping[str, Any]) -> Rule:
    if found["trace_level"] == [OFF]:
        return Rule(0, follows=False)
    rate = int(found["trace_rate"]) if int(found["trace_count"]) else 0
    return Rule(rate, found["trace_mode"] == OPENTELEMETRY, TENSORS in found["trace_level"])


def _value(name: str, value: Any) -> Any:
    match name:
        case "trace_file":
            raise Unsupported("trace file location can not be updated through network protocol")
        case "trace_mode":
            raise Unsupported("trace mode can not be updated through network protocol")
        case _ if value is None and name in _NAMES:
            return None
        case "trace_level":
            return _levels(value)
        case "trace_rate" | "trace_count" | "log_frequency":
            text = str(value) if type(value) in (int, str) else ""
            low, high = _RANGES[name]
            if not _NUMBER.fullmatch(text):
                raise InvalidRequest(f"Unable to parse '{name}', got: {value}")
            if not low <= int(text) <= high:
                raise InvalidRequest(f"Unable to parse '{name}', value is out of range [ {low}, {high} ], got: {value}")
            return text
        case _:
            raise InvalidRequest(f"unknown trace setting '{name}'; expected some of {', '.join(_NAMES)}")


def _levels(value: Any) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(isinstance(level, str) for level in given):
        raise InvalidRequest(f"Unable to parse 'trace_level', got: {value}; expected some of {', '.join(LEVELS)}")
    try:
        return list(levels_of(given))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
