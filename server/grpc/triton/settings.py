"""Trace and log settings as Triton's gRPC messages have them, and as `http.kserve.settings` does. Pure.

What is unknown is ignored here, where HTTP refuses it (Triton): the answer shows what holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ....core.errors import InvalidRequest

Document = Mapping[str, Any]
_SINGLE = ("trace_file", "trace_rate", "trace_count", "log_frequency")
#: What Triton says of a number that is out of range.
_RANGES = {"trace_rate": (0, 2**32 - 1), "log_frequency": (0, 2**32 - 1), "trace_count": (-1, 2**31 - 1)}
_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
#: Setting -> the field that it comes in, and what it is called in the error.
_LOG = {
    "log_file": ("string_param", "string"),
    "log_info": ("bool_param", "boolean"),
    "log_warning": ("bool_param", "boolean"),
    "log_error": ("bool_param", "boolean"),
    "log_verbose_level": ("uint32_param", "int32"),
    "log_format": ("string_param", "string"),
}


def read_trace(given: Document) -> dict[str, Any]:
    """The changes that a request asks for; None returns a setting to its parent's value."""
    changes: dict[str, Any] = {}
    for name, setting in given.items():
        values = setting.get("value", [])
        if name == "trace_level":
            known = [level for level in values if level in _LEVELS]
            if "OFF" in known and len(values) > 1:
                raise InvalidRequest("Expect only one trace level 'OFF' is specified")
            if known or not values:
                changes[name] = known or None
        elif name in _SINGLE:
            if len(values) > 1:
                raise InvalidRequest(f"expect only 1 value for '{name}'")
            changes[name] = _single(name, values[0]) if values else None
    return changes


def _single(name: str, text: str) -> str:
    """A number as Triton reads it, a number in front of other text included; the name of a file as it is."""
    if name == "trace_file":
        return text
    found = re.match(r"\s*([+-]?\d+)", text, re.ASCII)
    if found is None:
        raise InvalidRequest(f"Unable to parse '{name}', got: {text}")
    number, least, most = int(found[1]), *_RANGES[name]
    if not -(2**31) <= number < 2**31:
        raise InvalidRequest(f"Unable to parse '{name}', value is out of range [ {least}, {most} ], got: {text}")
    if name == "trace_count" and number < least:
        raise InvalidRequest(f"Unable to parse '{name}'. Expecting value >= {least}, got: {text}")
    return str(number if name == "trace_count" else number % 2**32)


def write_trace(settings: Document) -> Document:
    listed = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    return {"settings": {name: {"value": values} for name, values in listed.items()}}


def read_log(given: Document) -> dict[str, Any]:
    """The changes that a request asks for."""
    changes = {}
    for name, setting in given.items():
        if name not in _LOG:
            continue
        field, kind = _LOG[name]
        if field not in setting:
            raise InvalidRequest(f"expect {kind} for '{name}'")
        changes[name] = setting[field]
    return changes


def write_log(settings: Document) -> Document:
    return {"settings": {name: {_LOG[name][0]: value} for name, value in settings.items()}}
