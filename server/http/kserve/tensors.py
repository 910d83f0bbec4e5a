"""Tensors to and from requests: the JSON form (`data`) and the binary form (raw bytes behind the JSON part)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ....core.elements import CODES, pack, unpack
from ....core.errors import InvalidRequest, ModelFailed
from ....core.tensor import NUMPY_DTYPES, Buffer, Tensor, pack_bytes, unpack_bytes
from .documents import MAX_INT64

#: Longest shape that is looked at; numpy takes no more axes.
MAX_RANK = 64
_BINARY_ONLY = ("FP16", "BF16")


def element_count(name: str, shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has; raises InvalidRequest where 64 bits cannot count them."""
    if 0 in shape:
        return 0
    count = 1
    for size in shape:
        count *= size
        if count > MAX_INT64:
            raise InvalidRequest(
                f"the shape of input '{name}' causes total element count to exceed maximum size of {MAX_INT64}"
            )
    return count


# -- JSON in -------------------------------------------------------------------------------------------------------------


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """The tensor that a request's `data` describes, nested or flat, in row-major order.

    Raises InvalidRequest for a wrong number of elements, for elements of a wrong JSON type (a boolean is no number), and for
    integers that the datatype cannot hold, which Triton truncates without a word.
    """
    if datatype in _BINARY_ONLY:
        raise InvalidRequest(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    if type(data) is not list:
        raise InvalidRequest(f"Unable to parse 'data': attempt to access JSON non-array as array: input '{name}'")
    expected = element_count(name, shape)
    flat, kinds = _flatten(name, data)
    if len(flat) != expected:
        raise InvalidRequest(
            f"Unable to parse 'data': Shape does not match true shape of 'data' field: input '{name}' has {len(flat)} elements, "
            f"its shape {expected}"
        )
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _pack_strings(name, flat, kinds))
    return Tensor(name, datatype, shape, _packed(name, datatype, flat, kinds))


def _flatten(name: str, data: list[Any]) -> tuple[list[Any], set[type]]:
    """The elements of nested lists in order, and their types. Works level by level, so depth costs no stack."""
    while list in (kinds := set(map(type, data))):
        if len(kinds) > 1:
            raise InvalidRequest(f"Unable to parse 'data': arrays and values are mixed at one level: input '{name}'")
        data = list(chain.from_iterable(data))
    return data, kinds


def _packed(name: str, datatype: str, flat: list[Any], kinds: set[type]) -> Buffer:
    code = CODES[datatype]
    if datatype == "BOOL":
        _expect(name, kinds <= {bool}, "boolean", "boolean")
    elif code in "fd":
        _expect(name, kinds <= {int, float}, "number", "double")
    else:
        word = "unsigned-integer" if code.isupper() else "signed-integer"
        _expect(name, kinds <= {int}, word, word)
    try:
        return pack(datatype, flat)  # a float that FP32 cannot hold becomes infinite
    except OverflowError:
        raise _too_large(name, datatype) from None


def _too_large(name: str, datatype: str) -> InvalidRequest:
    dtype, begin = NUMPY_DTYPES[datatype], f"Unable to parse 'data': input '{name}' has"
    if dtype.kind == "f":
        return InvalidRequest(f"{begin} an integer that no {datatype} can hold")
    limits = np.iinfo(dtype)
    return InvalidRequest(f"{begin} values outside of the range [{limits.min}, {limits.max}] of {datatype}")


def _expect(name: str, fits: bool, unlike: str, wanted: str) -> None:
    if not fits:
        raise InvalidRequest(f"Unable to parse 'data': attempt to access JSON non-{unlike} as {wanted}: input '{name}'")


def _pack_strings(name: str, flat: Iterable[Any], kinds: set[type]) -> bytes:
    if kinds - {str}:
        raise InvalidRequest(
            f"Unable to parse JSON bytes array: attempt to access JSON non-string as string: input '{name}'"
        )
    try:
        return pack_bytes(flat)
    except UnicodeEncodeError:
        raise InvalidRequest(f"Unable to parse JSON bytes array: a string is not valid Unicode: input '{name}'") from None


# -- JSON out ------------------------------------------------------------------------------------------------------------


def to_json(tensor: Tensor) -> Any:
    """The tensor's elements as something that `documents.dump` writes as a flat list.

    FP32 is written as the double that equals it (Triton), NaN and infinities as the literals that JSON does not have. Raises
    InvalidRequest for datatypes that JSON cannot carry and for BYTES that are not UTF-8.
    """
    if tensor.datatype in _BINARY_ONLY:
        raise InvalidRequest(
            f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format for output"
        )
    if tensor.datatype == "BYTES":
        return _strings(tensor)
    few = unpack(tensor.datatype, tensor.data)
    if few is not None and (CODES[tensor.datatype] not in "fd" or isfinite(sum(few))):
        return few
    elements = tensor.numpy().reshape(-1)
    if elements.dtype.kind != "f":
        fits = elements.flags.c_contiguous and elements.flags.aligned
        return elements if fits else np.require(elements, requirements=["C", "A"])
    doubles = elements.astype(np.float64)
    return doubles if np.isfinite(doubles).all() else _literals(doubles)


def _strings(tensor: Tensor) -> list[str]:
    try:
        return [str(element, "utf-8") for element in unpack_bytes(tensor.data)]
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output '{tensor.name}' holds bytes that are not UTF-8 and cannot be sent as JSON. Please use the binary data "
            "format for this output"
        ) from None
    except ValueError as error:
        raise ModelFailed(f"output '{tensor.name}' is no valid BYTES tensor: {error}", "BAD_OUTPUT") from None


def scalar_to_json(tensor: Tensor) -> Any:
    """The same of a tensor with one element, without the list around it."""
    data = to_json(tensor)
    if isinstance(data, orjson.Fragment):
        return orjson.Fragment(_literal(float(tensor.numpy().reshape(-1)[0])))
    return data[0] if isinstance(data, list) else data.item()


def _literals(doubles: npt.NDArray[np.float64]) -> orjson.Fragment:
    return orjson.Fragment("[" + ",".join(map(_literal, doubles.tolist())) + "]")


def _literal(value: float) -> str:
    text = repr(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
