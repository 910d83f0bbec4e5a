"""Normalising uint8 rows with ONNX Runtime, where the model itself runs.

The work is a model of four nodes, (Cast(rows) / 255 - mean) / std, and a cast where the input is not FP32. It is small enough to
be written down here in ONNX's protobuf encoding, so that serving needs no `onnx` package. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

if TYPE_CHECKING:
    from ..codecs import Pixels

INPUT, OUTPUT = "rows", "normalized"
#: TensorProto.DataType
_UINT8, _TYPES = 2, {"FP32": 1, "FP16": 10, "FP64": 11}
_OPSET, _IR_VERSION, _INT_ATTRIBUTE = 14, 8, 2


def session_of(pixels: Pixels, options: ort.SessionOptions, providers: list[tuple[str, dict[str, Any]]]) -> Any:
    """A session with input `rows` (UINT8) and output `normalized` (the declared datatype), of any shape."""
    return ort.InferenceSession(model_bytes(pixels), options, providers=providers, enable_fallback=0)


def model_bytes(pixels: Pixels) -> bytes:
    """The model as a serialised ModelProto."""
    mean, std = pixels.constants()
    last = "float" if pixels.datatype != "FP32" else OUTPUT
    nodes = [
        _node("Cast", [INPUT], "cast", to=_TYPES["FP32"]),
        _node("Div", ["cast", "scale"], "scaled"),
        _node("Sub", ["scaled", "mean"], "shifted"),
        _node("Div", ["shifted", "std"], last),
    ]
    if last != OUTPUT:
        nodes.append(_node("Cast", [last], OUTPUT, to=_TYPES[pixels.datatype]))
    constants = {"scale": np.full((1, 1, 1), 255, np.float32), "mean": mean, "std": std}
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"normalize")
    graph += b"".join(_field(5, _tensor(name, values)) for name, values in constants.items())
    graph += _field(11, _value(INPUT, _UINT8)) + _field(12, _value(OUTPUT, _TYPES[pixels.datatype]))
    return _field(1, _IR_VERSION) + _field(7, graph) + _field(8, _field(2, _OPSET))


def _node(operator: str, inputs: list[str], output: str, **attributes: int) -> bytes:
    node = b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode()) + _field(4, operator.encode())
    return node + _attributes(attributes)


def _attributes(attributes: Mapping[str, int]) -> bytes:
    return b"".join(
        _field(5, _field(1, name.encode()) + _field(3, value) + _field(20, _INT_ATTRIBUTE))
        for name, value in attributes.items()
    )


def _tensor(name: str, values: npt.NDArray[np.float32]) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, _TYPES["FP32"]) + _field(8, name.encode()) + _field(9, values.astype("<f4").tobytes())


def _value(name: str, element_type: int) -> bytes:
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, element_type)))


def _field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
