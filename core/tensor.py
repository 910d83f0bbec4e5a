"""Tensors as bytes: one representation from the socket to the device.

A `Tensor` is a name, a KServe v2 datatype, a shape and row-major little-endian bytes. `BYTES` elements are laid out as the
Open Inference Protocol's binary extension does: a uint32 length, then the bytes, element after element.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Buffer = bytes | bytearray | memoryview

#: KServe v2 datatype -> numpy dtype. BF16 has no numpy type: its bytes travel as uint16.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = frozenset(NUMPY_DTYPES) | {"BYTES"}
#: Arrays up to this size are copied into bytes: that takes less than a view of them as bytes does.
SMALL = 4 << 10
_DATATYPE_OF = {dtype: name for name, dtype in NUMPY_DTYPES.items() if name != "BF16"}


class Tensor(msgspec.Struct):
    """One named tensor. `data` may be a view of memory owned by someone else; who hands it out says how long it lives."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    def numpy(self) -> npt.NDArray[Any]:
        """The tensor as an array of `shape`: a view for fixed-size datatypes, an object array of `bytes` for BYTES. ValueError
        where the data does not fit."""
        if self.datatype == "BYTES":
            elements = np.empty(prod(self.shape), dtype=object)
            elements[:] = unpack_bytes(self.data)
            return elements.reshape(self.shape)
        wanted = expected_bytes(self.datatype, self.shape)
        if memoryview(self.data).nbytes != wanted:
            raise ValueError(
                f"tensor '{self.name}' has {self.nbytes} bytes, {wanted} belong to its shape {list(self.shape)}"
            )
        return np.ndarray(self.shape, NUMPY_DTYPES[self.datatype], self.data)

    @classmethod
    def from_numpy(cls, name: str, array: npt.NDArray[Any], datatype: str | None = None) -> Tensor:
        """Wraps `array`, or copies it where it is small (then the data is read-only), not contiguous or not little-endian; str
        and object elements become BYTES."""
        if array.dtype.kind in "OSU":
            return cls(name, "BYTES", array.shape, pack_bytes(array.reshape(-1)))
        datatype = datatype or datatype_of(array.dtype)
        dtype = NUMPY_DTYPES[datatype]
        if array.nbytes <= SMALL and array.dtype == dtype:
            return cls(name, datatype, array.shape, array.tobytes())
        shape = array.shape  # `ascontiguousarray` makes a scalar a vector
        array = np.ascontiguousarray(array, dtype=dtype)
        return cls(name, datatype, shape, array.reshape(-1).view(np.uint8).data)

    @property
    def nbytes(self) -> int:
        return memoryview(self.data).nbytes


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The KServe v2 name of a numpy dtype; ValueError where there is none (complex, datetime, ...)."""
    if found := _DATATYPE_OF.get(dtype):
        return found
    if dtype.kind in "OSU":
        return "BYTES"
    try:
        return _DATATYPE_OF[dtype.newbyteorder("<")]
    except KeyError:
        raise ValueError(f"numpy dtype '{dtype}' has no KServe v2 datatype; expected one of {sorted(DATATYPES)}") from None


@lru_cache(1024)
def expected_bytes(datatype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes that a tensor of this datatype and shape has; None for BYTES, whose elements differ in length."""
    return None if datatype == "BYTES" else prod(shape) * NUMPY_DTYPES[datatype].itemsize


def reshaped(shape: Sequence[int], lead: int, here: Sequence[int], there: Sequence[int]) -> tuple[int, ...]:
    """A shape that fits the dims `here` as one that fits `there` (Triton's `reshape`): -1 stand for the same sizes, in order.
    The first `lead` sizes, a batch axis, stay. The number of elements may differ where `shape` does not fit."""
    sizes = iter([size for size, dim in zip(shape[lead:], here, strict=False) if dim == -1])
    return (*shape[:lead], *(next(sizes, 1) if dim == -1 else dim for dim in there))


def pack_bytes(elements: Iterable[Buffer | str]) -> bytes:
    """BYTES elements in the binary extension's layout; str elements are encoded as UTF-8."""
    out = bytearray()
    for element in elements:
        raw = element.encode() if isinstance(element, str) else bytes(element)
        out += struct.pack("<I", len(raw)) + raw
    return bytes(out)


def unpack_bytes(data: Buffer) -> list[bytes]:
    """The elements of a packed BYTES tensor; ValueError where a length runs past the end."""
    view, elements, at = memoryview(data).cast("B"), [], 0
    while at < len(view):
        if at + 4 > len(view):
            raise ValueError(f"incomplete string length indicator: expecting 4 bytes but only {len(view) - at} available")
        (length,) = struct.unpack_from("<I", view, at)
        at += 4
        if at + length > len(view):
            raise ValueError(f"string element of {length} bytes runs past the end: only {len(view) - at} bytes left")
        elements.append(bytes(view[at : at + length]))
        at += length
    return elements
