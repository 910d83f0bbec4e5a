"""Tensors as typed fields of a request (`contents`), instead of raw bytes. Texts and checks are Triton's."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.errors import InvalidRequest
from ....core.tensor import Buffer, pack_bytes

#: The fields in the order in which Triton looks at them, with the datatype that each stands for.
_FIELDS = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}
#: Smaller integers travel in the fields of 32-bit ones; what does not fit wraps (Triton).
_NARROW = {"int_contents": ("INT8", "INT16"), "uint_contents": ("UINT8", "UINT16")}
_DTYPES = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def read(tensor: Any, datatype: str, model: str) -> Buffer:
    """The bytes of an input whose elements stand in typed fields; InvalidRequest where they are another datatype's."""
    found: Buffer = b""
    for name, kind in _FIELDS.items():
        elements = getattr(tensor.contents, name)
        if not elements:
            continue
        where = f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}'"
        if len(found):
            raise InvalidRequest(f"{where}, binary data was already supplied.")
        if datatype in _NARROW.get(name, ()):
            kind = datatype
        if kind != datatype:
            raise InvalidRequest(f"{where} of type '{kind}', expected datatype '{datatype}'")
        found = _packed(elements, kind)
    return found


def _packed(elements: Any, datatype: str) -> Buffer:
    if datatype == "BYTES":
        return pack_bytes(elements)
    dtype = _DTYPES[datatype]
    wide = {"INT8": "<i4", "INT16": "<i4", "UINT8": "<u4", "UINT16": "<u4"}.get(datatype)
    array = np.array(elements, dtype=np.dtype(wide) if wide else dtype).astype(dtype)
    return array.view(np.uint8).data
