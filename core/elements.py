"""A tensor's elements as Python's own numbers: for few of them that takes less than numpy does."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Any

from .tensor import Buffer

#: The datatypes whose elements Python has numbers for, as `array` calls them.
CODES = {
    "BOOL": "B",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
#: Elements of an input that are copied rather than viewed, bytes of an output that becomes a list rather than an array: for
#: so few the list and the copy take less.
FEW = 256


def pack(datatype: str, numbers: Sequence[Any]) -> Buffer:
    """The numbers as a tensor's bytes; OverflowError for an integer that the datatype does not hold.

    A float that FP32 cannot hold becomes infinite. `datatype` is one of `CODES`.
    """
    packed = array(CODES[datatype], numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes() if len(numbers) <= FEW else memoryview(packed).cast("B")


def unpack(datatype: str, data: Buffer) -> list[Any] | None:
    """The elements of a small tensor; None where numpy is to read it: it has more, or another datatype."""
    code = "?" if datatype == "BOOL" else CODES.get(datatype)
    if code is None or len(data) > FEW or sys.byteorder == "big":
        return None
    elements: list[Any] = memoryview(data).cast(code).tolist()  # type: ignore[call-overload]
    return elements
