"""Requests and responses as they travel between jitney's processes. Arrays of plain values in msgpack; nothing is ever pickled.

`Data` is either the bytes themselves (small, or of no batch) or a place `(offset, nbytes)` in shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ...core.request import Failure, Parameter
from ...core.tensor import Buffer

if TYPE_CHECKING:
    Data = Buffer | tuple[int, int]
else:
    Data = bytearray | tuple[int, int]  # what is decoded: writable, so that no library complains about it


class Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Base of all that is sent: fields in order, no names."""


class WireTensor(Message):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data


class WirePart(Message):
    name: str
    content_type: str
    data: Data


class WireRequest(Message):
    id: str
    tensors: list[WireTensor]
    parts: list[WirePart]
    headers: dict[str, str]
    parameters: dict[str, Parameter]
    outputs: tuple[str, ...]
    rows: int


class WireResponse(Message):
    tensors: list[WireTensor]
    body: Data | None
    status: int
    reason: str
    headers: dict[str, str]
    parameters: dict[str, Parameter]
    error: Failure | None
    final: bool
