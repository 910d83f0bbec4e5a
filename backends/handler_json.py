"""JSON as handlers know it, for less time: the values of `json.loads` and the text of `json.dumps(element, indent=2)`.

Both give exactly what the standard library gives, and leave to it whatever a faster way might treat otherwise:

    read    msgspec's parser refuses more than `json` does (NaN, UTF-16, halves of surrogate pairs, numbers beyond a float) and
            agrees on what it takes; orjson's would not do: it makes floats of integers beyond 64 bit
    pretty  orjson writes the innermost containers, where it agrees with `json`: no exponents, no text beyond ASCII. Else `json`'s
            encoder in C does, which cannot indent: its separators hold the line break and the indentation of their level
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from ..core.tensor import Buffer

_INDENTED = orjson.OPT_INDENT_2
#: Containers in each other beyond this are left to `json`, which tells a circle from a deep document.
DEPTH = 24

_DECODER = msgspec.json.Decoder()
_SCALARS = frozenset((str, int, float, bool, type(None)))
_BREAKS = ["\n" + "  " * level for level in range(DEPTH + 1)]
_SEPARATORS = ["," + after for after in _BREAKS[1:]]
_quoted = json.encoder.encode_basestring_ascii


class _Unusual(Exception):
    """Something that only the standard library's encoder is asked to write, or to refuse."""


def _encoders() -> list[Callable[[Any, int], tuple[str, ...]]]:
    """For each level (0 = the whole) what writes a container of scalars, but for the breaks inside its brackets; [] without C."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return []
    return [make(None, None, _quoted, None, ": ", separator, False, False, True) for separator in _SEPARATORS]


_ENCODERS = _encoders()


def read(data: Buffer) -> Any:
    """`json.loads` of UTF-8 text; ValueError or RecursionError where it raises that."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return json.loads(bytes(data).decode("utf-8"))


def pretty(element: Any) -> bytes:
    """`json.dumps(element, indent=2)` as bytes; TypeError, ValueError or RecursionError where it raises that."""
    try:
        return _write(element, 0).encode("ascii")
    except _Unusual:
        return json.dumps(element, indent=2).encode("ascii")


def _write(value: Any, level: int) -> str:
    """The text of a value inside so many containers."""
    kind = type(value)
    if level == len(_ENCODERS):
        raise _Unusual
    if kind is dict:
        kinds = set(map(type, value.values()))
        return _innermost(value, kinds, level) if kinds <= _SCALARS else _write_dict(value, level)
    if kind is list or kind is tuple:
        kinds = set(map(type, value))
        return _innermost(value, kinds, level) if kinds <= _SCALARS else _write_list(value, level)
    if kind not in _SCALARS:
        raise _Unusual
    return "".join(_ENCODERS[0](value, 0))


def _write_dict(value: dict[Any, Any], level: int) -> str:
    if not {str}.issuperset(map(type, value)):
        raise _Unusual
    items = [f"{_quoted(key)}: {_write(item, level + 1)}" for key, item in value.items()]
    return f"{{{_BREAKS[level + 1]}{_SEPARATORS[level].join(items)}{_BREAKS[level]}}}"


def _write_list(value: list[Any] | tuple[Any, ...], level: int) -> str:
    items = [_write(item, level + 1) for item in value]
    return f"[{_BREAKS[level + 1]}{_SEPARATORS[level].join(items)}{_BREAKS[level]}]"


def _innermost(value: Any, kinds: set[type], level: int) -> str:
    """A container of scalars of these types."""
    try:
        text = orjson.dumps(value, option=_INDENTED)
    except TypeError:  # integers beyond 64 bit, keys other than str, halves of surrogate pairs
        text = b""
    if text and (_is_repr(text) if float in kinds else text.isascii() and b"\x7f" not in text):
        return text.decode("ascii").replace("\n", _BREAKS[level]) if level else text.decode("ascii")
    flat = "".join(_ENCODERS[level](value, 0))
    return f"{flat[0]}{_BREAKS[level + 1]}{flat[1:-1]}{_BREAKS[level]}{flat[-1]}"


def _is_repr(text: bytes) -> bool:
    """Whether orjson wrote numbers as `repr` does: no exponent, no null for NaN, nothing that `repr` gives an exponent."""
    return text.isascii() and not (b"e" in text or b"n" in text or b"0.0000" in text or b"\x7f" in text)
