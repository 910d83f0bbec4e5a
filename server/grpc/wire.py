"""Protobuf's wire format where copying counts: large `bytes` fields are taken out of a message, or put behind it, as they lie.

A parsed message holds a copy of each such field, and gives out another. A field of a message is `tag length data`, fields may
come in any order, and repeated ones are in the order in which they come.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...core.tensor import Buffer

#: From this size on the parts of a message are looked at one by one.
LARGE = 32 << 10
_LENGTH_DELIMITED = 2


def split(data: bytes, field: int) -> tuple[bytes, list[memoryview]] | None:
    """A message without one `bytes` field, and views of what this field holds; None where the data is no message."""
    view, at, end = memoryview(data), 0, len(data)
    wanted = field << 3 | _LENGTH_DELIMITED
    rest: list[memoryview] = []
    found: list[memoryview] = []
    try:
        while at < end:
            began = at
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == _LENGTH_DELIMITED:
                size, at = _varint(data, at)
                start, at = at, at + size
                if at > end:
                    return None
                (found if tag == wanted else rest).append(view[start:at] if tag == wanted else view[began:at])
                continue
            at = _varint(data, at)[1] if kind == 0 else at + {1: 8, 5: 4}[kind]
            if at > end:
                return None
            rest.append(view[began:at])
    except (IndexError, KeyError):
        return None
    return b"".join(rest), found


def join(head: bytes, field: int, parts: Sequence[Buffer]) -> bytes:
    """A serialized message with a repeated `bytes` field behind it; copies each part once."""
    pieces: list[Buffer] = [head]
    for part in parts:
        view = memoryview(part)
        pieces += (prefix(field, view.nbytes), view if view.contiguous else bytes(view))
    return b"".join(pieces)


def prefix(field: int, nbytes: int) -> bytes:
    """What stands before the data of a `bytes` or message field."""
    return _encoded(field << 3 | _LENGTH_DELIMITED) + _encoded(nbytes)


def _encoded(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
        shift += 7
        if shift > 63:
            raise IndexError("a number of more than 64 bits")
