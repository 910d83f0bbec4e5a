"""JSON as handlers know it, for less time: the values of `json.loads` and the text of `json.dumps(element, indent=2)`.

Both give exactly what the standard library gives, and leave to it whatever a faster way might treat otherwise:

    read    msgspec's parser refuses more than `json` does (NaN, UTF-16, halves of surrogate pairs, numbers beyond a float) and
            agrees on what it takes; orjson's would not do: it makes floats of integers beyond 64 bit
    pretty  with an indent `json` gives up its encoder in C; here that encoder writes each innermost container, its separators
            holding the line break and the indentation of their level
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from .tensor import Buffer

#: Containers in each other beyond this are left to `json`, which tells a circle from a deep document.
DEPTH = 24

_DECODER = msgspec.json.Decoder()
_SCALARS = frozenset((str, int, float, bool, type(None)))
_BREAKS = ["\n" + "  " * level for level in range(DEPTH + 1)]
_quoted = json.encoder.encode_basestring_ascii


class _Unusual(Exception):
    """Something that only the standard library's encoder is asked to write, or to refuse."""


def _encoders() -> list[Callable[[Any, int], tuple[str, ...]]]:
    """For each level (0 = the whole) what writes a container of scalars, but for the breaks inside its brackets; [] without C."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return []
    return [make(None, None, _quoted, None, ": ", f",{after}", False, False, True) for after in _BREAKS[1:]]


_ENCODERS = _encoders()


def read(data: Buffer) -> Any:
    """`json.loads`; ValueError or RecursionError where it raises that."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return json.loads(bytes(data))


def pretty(element: Any) -> bytes:
    """`json.dumps(element, indent=2)` as bytes; TypeError, ValueError or RecursionError where it raises that."""
    try:
        text = _write(element, 0)
    except _Unusual:
        text = json.dumps(element, indent=2)
    return text.encode("ascii")


def _write(value: Any, level: int) -> str:
    """The text of a value inside so many containers."""
    kind = type(value)
    if level == len(_ENCODERS):
        raise _Unusual
    if kind is dict:
        return _write_dict(value, level)
    if kind is list or kind is tuple:
        return _write_list(value, level)
    if kind not in _SCALARS:
        raise _Unusual
    return "".join(_ENCODERS[0](value, 0))


def _write_dict(value: dict[Any, Any], level: int) -> str:
    if not value:
        return "{}"
    if _SCALARS.issuperset(map(type, value.values())):
        inner = "".join(_ENCODERS[level](value, 0))[1:-1]
    elif {str}.issuperset(map(type, value)):
        items = [f"{_quoted(key)}: {_write(item, level + 1)}" for key, item in value.items()]
        inner = f",{_BREAKS[level + 1]}".join(items)
    else:
        raise _Unusual
    return f"{{{_BREAKS[level + 1]}{inner}{_BREAKS[level]}}}"


def _write_list(value: list[Any] | tuple[Any, ...], level: int) -> str:
    if not value:
        return "[]"
    kinds = set(map(type, value))
    if kinds <= _SCALARS:
        inner = _floats(value, level) if kinds == {float} else ""
        inner = inner or "".join(_ENCODERS[level](value, 0))[1:-1]
    else:
        inner = f",{_BREAKS[level + 1]}".join([_write(item, level + 1) for item in value])
    return f"[{_BREAKS[level + 1]}{inner}{_BREAKS[level]}]"


def _floats(values: Sequence[float], level: int) -> str:
    """The inside of a list of floats; empty where orjson's text may differ from `repr`: exponents, NaN and infinities."""
    compact = orjson.dumps(values)
    if b"e" in compact or b"n" in compact or b"0.0000" in compact:
        return ""
    return compact[1:-1].decode("ascii").replace(",", f",{_BREAKS[level + 1]}")
