"""JSON values to tensors and back, with every misfit named."""

from __future__ import annotations

import base64
import binascii
from itertools import chain
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.elements import CODES, FEW, pack
from ..core.errors import InvalidRequest
from ..core.model_config import TensorSpec
from ..core.tensor import NUMPY_DTYPES, Tensor, pack_bytes

#: Integers up to here are doubles too, so that one that becomes a float is rounded once.
_EXACT = 1 << 53


def tensor_from_json(spec: TensorSpec, value: Any) -> Tensor:
    """A (nested) list or a lone value as a tensor of `spec`'s datatype and the list's own shape."""
    if spec.datatype == "BYTES":
        return _texts(spec, value)
    if (few := _few(spec, value)) is not None:
        return few
    try:
        found = np.array(value)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"input '{spec.name}': the list is ragged; every row must have the same length") from None
    if found.dtype.kind not in "biuf":
        _blame(spec, value)
    array = _cast(spec, found)
    return Tensor(spec.name, spec.datatype, array.shape, array.reshape(-1).view(np.uint8).data)


def _few(spec: TensorSpec, value: Any) -> Tensor | None:
    """The tensor of few numbers of the right kind, without numpy; None where they are many, or there is any doubt."""
    shape, flat = [], [value]
    while (kinds := set(map(type, flat))) == {list}:
        sizes = set(map(len, flat))
        if len(sizes) > 1 or not 0 < len(flat) * (size := sizes.pop()) <= FEW:
            return None
        shape.append(size)
        flat = list(chain.from_iterable(flat))
    code = CODES.get(spec.datatype, "")
    if spec.datatype == "BOOL" or not code or not kinds <= ({int, float} if code in "fd" else {int}):
        return None
    if code in "fd" and int in kinds and not -_EXACT <= min(flat) <= max(flat) <= _EXACT:
        return None
    try:
        data = pack(spec.datatype, flat)
    except OverflowError:
        return None
    fits = code != "f" or isfinite(sum(memoryview(data).cast("f")))
    return Tensor(spec.name, spec.datatype, tuple(shape), data) if fits else None


def _blame(spec: TensorSpec, value: Any) -> None:
    """Raises for the first element that is no number; numbers too large for any integer type, else."""
    for element in _leaves(value):
        if not isinstance(element, bool | int | float):
            kind = {dict: "an object", str: "text", type(None): "null"}.get(type(element), type(element).__name__)
            raise InvalidRequest(f"input '{spec.name}' is {spec.datatype}; expected numbers, found {kind}")
    raise InvalidRequest(f"input '{spec.name}': a number is out of the range of {spec.datatype}, or the list is ragged")


def _leaves(value: Any) -> Any:
    pending = [value]
    while pending:
        element = pending.pop()
        if isinstance(element, list):
            pending.extend(reversed(element))
        else:
            yield element


def _cast(spec: TensorSpec, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if spec.datatype == "BF16":
        return _brain(spec, found)
    target = NUMPY_DTYPES[spec.datatype]
    if target.kind == "f":
        return _floating(spec, found, target)
    if found.size == 0:
        return found.astype(target)
    if target.kind == "b":
        if not np.isin(found, (0, 1)).all():
            raise InvalidRequest(f"input '{spec.name}' is BOOL; expected true, false, 0 or 1")
        return found.astype(target)
    return _integer(spec, found, target)


def _floating(spec: TensorSpec, found: npt.NDArray[Any], target: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        array = found.astype(target)
    if (np.isinf(array) & np.isfinite(found)).any():
        raise InvalidRequest(f"input '{spec.name}': a number is out of the range of {spec.datatype}")
    return array


def _brain(spec: TensorSpec, found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        halves = _bfloat16(found.astype(np.float32))
    if (((halves & np.uint16(0x7FFF)) == 0x7F80) & np.isfinite(found)).any():
        raise InvalidRequest(f"input '{spec.name}': a number is out of the range of BF16")
    return halves


def _integer(spec: TensorSpec, found: npt.NDArray[Any], target: np.dtype[Any]) -> npt.NDArray[Any]:
    if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.trunc(found)).all()):
        raise InvalidRequest(f"input '{spec.name}' is {spec.datatype}; found a number that is not whole")
    info = np.iinfo(target)
    # floats: 2.0**63 equals int64's maximum + 1, so the upper bound is exclusive
    low, high = found.min(), found.max()
    if low < info.min or (high >= float(info.max) + 1 if found.dtype.kind == "f" else int(high) > info.max):
        raise InvalidRequest(f"input '{spec.name}': a number is out of the range of {spec.datatype}")
    return found.astype(target)


def _bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of float32, rounded to nearest even; NaN stays NaN."""
    bits = array.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype("<u2")


def _texts(spec: TensorSpec, value: Any) -> Tensor:
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    elements = [value]
    for size in shape:
        if any(not isinstance(element, list) or len(element) != size for element in elements):
            raise InvalidRequest(f"input '{spec.name}': the list is ragged; every row must have the same length")
        elements = [inner for element in elements for inner in element]
    return Tensor(spec.name, "BYTES", tuple(shape), pack_bytes([_bytes(spec, element) for element in elements]))


def _bytes(spec: TensorSpec, element: Any) -> bytes | str:
    """One element: text, bytes (of a codec of the user's), or JSON's way of writing bytes, `{"b64": "…"}` (KServe v1)."""
    if isinstance(element, str | bytes):
        return element
    if isinstance(element, dict) and element.keys() == {"b64"} and isinstance(element["b64"], str):
        try:
            return base64.b64decode(element["b64"], validate=True)
        except binascii.Error as error:
            raise InvalidRequest(f"input '{spec.name}': the value of 'b64' is not base64: {error}") from None
    raise InvalidRequest(
        f'input \'{spec.name}\' is BYTES; expected text, or lists of text of equal length; bytes are written {{"b64": "…"}}'
    )


def to_python(tensor: Tensor) -> npt.NDArray[Any] | list[Any]:
    """A tensor as something the JSON writer takes: a numpy array, or nested lists of text.

    Raises ValueError where BYTES elements are not UTF-8.
    """
    array = tensor.numpy()
    if tensor.datatype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if tensor.datatype == "BYTES":
        texts = np.empty(array.size, dtype=object)
        texts[:] = [element.decode("utf-8") for element in array.reshape(-1)]
        nested: list[Any] = texts.reshape(array.shape).tolist()
        return nested
    return np.ascontiguousarray(array)
