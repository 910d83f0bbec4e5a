"""JSON documents in and out: strict reading, Triton's texts for what is wrong, compact writing.

orjson reads; where it stumbles over the literals NaN, Infinity and -Infinity, which Triton takes, the standard library reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from ....core.errors import InvalidRequest

Document = Mapping[str, Any]

_MALFORMED = "failed to parse the request JSON buffer: "
#: What some editors and shells of Windows write before UTF-8; RapidJSON passes over it.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Largest integers that a 64-bit field of a request may hold.
MAX_INT64, MAX_UINT64 = 2**63 - 1, 2**64 - 1
#: So many names are looked for in a text one by one.
_FEW = 32
_KINDS = {str: "string", bool: "boolean", dict: "object", list: "array", int: "signed-integer", float: "double"}


def parse(raw: bytes | memoryview) -> Document:
    """The JSON object in `raw`; raises InvalidRequest for anything else, however deep or broken."""
    if raw[:3] == _BYTE_ORDER_MARK:
        raw = raw[3:]
    if not raw:
        raise InvalidRequest(_MALFORMED + "The document is empty. at 0")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        document = _parse_literals(bytes(raw), error)
    if not isinstance(document, dict):
        raise InvalidRequest(f"{_MALFORMED}expected an object, got {_KINDS.get(type(document), 'null')}")
    return document


def parse_optional(raw: bytes | memoryview) -> Document:
    """The same, an empty body being an empty object."""
    return parse(raw) if bytes(raw).strip() else {}


def repeated(raw: bytes | memoryview, document: Document) -> str | None:
    """A name that an object in `raw` has twice, None where there is none; `document` is what `parse` made of it.

    Most texts are not read again: none of their few names stands in them twice. A second parser sees every pair of the others.
    """
    text = bytes(raw)
    objects = [document, *(value for value in document.values() if type(value) is dict)]
    names = [name for each in objects for name in each]
    if len(names) <= _FEW and all(text.count(orjson.dumps(name)) < 2 for name in names):
        return None
    twice: list[str] = []

    def see(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            count = Counter(name for name, _ in pairs)
            twice.append(next(name for name in found if count[name] > 1))
        return found

    try:
        json.loads(text, object_pairs_hook=see, parse_int=str, parse_float=str)
    except RecursionError:
        raise InvalidRequest(f"{_MALFORMED}JSON nesting depth exceeds maximum allowed limit") from None
    return twice[-1] if twice else None


def _parse_literals(raw: bytes, error: orjson.JSONDecodeError) -> Any:
    if b"NaN" not in raw and b"Infinity" not in raw:
        raise InvalidRequest(f"{_MALFORMED}{error.msg} at {error.pos}") from None
    try:
        document = json.loads(raw)
        if (
            b"\\ud" in raw.lower()
        ):  # orjson takes no lone surrogate; the standard library does, and then nothing can write it
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidRequest(f"{_MALFORMED}JSON nesting depth exceeds maximum allowed limit") from None
    except ValueError as problem:  # JSONDecodeError, a Unicode error, an integer of thousands of digits
        raise InvalidRequest(f"{_MALFORMED}{problem}") from None
    return document


def dump(document: Any) -> bytes:
    """Compact JSON; numpy arrays become lists."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def member(document: Document, name: str, kind: type) -> Any:
    """A member that must be there, of the JSON type `kind`."""
    if name not in document:
        raise InvalidRequest(f"Unable to parse '{name}': attempt to access non-existing object member '{name}'")
    return checked(document[name], name, kind)


def optional(document: Document, name: str, kind: type, default: Any) -> Any:
    """A member that may be absent, of the JSON type `kind`."""
    return checked(document[name], name, kind) if name in document else default


def checked(value: Any, name: str, kind: type) -> Any:
    """`value` if it is of the JSON type `kind` (bool is no int)."""
    if type(value) is not kind:
        raise InvalidRequest(f"Unable to parse '{name}': attempt to access JSON non-{_KINDS[kind]} as {_KINDS[kind]}")
    return value


def unsigned(value: Any, name: str) -> int:
    """`value` if it is a non-negative integer of 64 bits."""
    if type(value) is not int or not 0 <= value <= MAX_UINT64:
        raise InvalidRequest(f"Unable to parse '{name}': attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value
