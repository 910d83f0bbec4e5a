"""`Tensor`: a named array on the CPU, or a DLPack object on a device; and the datatypes by their several names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jitney.core import tensor as wire

from . import _dlpack
from ._arguments import WrongArgument, text
from ._errors import TritonModelException

Array = npt.NDArray[Any]

#: Triton's numbers of datatypes (TRITONSERVER_DataType).
TYPE_NUMBERS = {
    "BOOL": 1,
    "UINT8": 2,
    "UINT16": 3,
    "UINT32": 4,
    "UINT64": 5,
    "INT8": 6,
    "INT16": 7,
    "INT32": 8,
    "INT64": 9,
    "FP16": 10,
    "FP32": 11,
    "FP64": 12,
    "BYTES": 13,
    "BF16": 14,
}
_NAMES = {number: name for name, number in TYPE_NUMBERS.items()}


class Tensor:
    """A named tensor. The array is made contiguous; str and object arrays are BYTES tensors.

    What is no array yet (a list, a scalar, a torch tensor on the CPU) is made one, as pybind11 does for Triton.
    """

    def __init__(self, name: str, numpy_array: Any) -> None:
        name = text(name, "a Tensor's name")
        if not isinstance(numpy_array, np.ndarray):
            given, numpy_array = type(numpy_array).__name__, _array(numpy_array)
            if numpy_array is None:
                raise WrongArgument(f"Tensor '{name}' needs a numpy array, got {given}")
        self._name = name
        self._array: Array | None = np.ascontiguousarray(numpy_array) if numpy_array.ndim else numpy_array
        self._device_tensor: Any = None
        self._datatype = _datatype(name, numpy_array)

    @classmethod
    def from_wire(cls, source: wire.Tensor) -> Tensor:
        """A request's tensor, which the model may change: a view of shared memory, except for BYTES."""
        array = source.numpy()
        made = cls.__new__(cls)  # what the server sends needs none of `__init__`'s checks
        made._name, made._datatype, made._device_tensor = source.name, source.datatype, None
        made._array = array if array.flags.writeable else array.copy()
        return made

    def to_wire(self) -> wire.Tensor:
        if self._array is None:
            array, datatype = _dlpack.host_copy(self._device_tensor), self._datatype
        elif self._array.dtype.kind == "O":
            return wire.Tensor(self._name, "BYTES", self._array.shape, wire.pack_bytes(_strings(self._array)))
        else:
            array, datatype = self._array, self._datatype
        return wire.Tensor.from_numpy(self._name, array, datatype)

    @staticmethod
    def from_dlpack(name: str, obj: Any) -> Tensor:
        """A tensor that shares memory with a DLPack object or capsule."""
        name = text(name, "a Tensor's name")
        try:
            taken = _dlpack.take(obj)
        except (BufferError, RuntimeError, TypeError, ValueError, ImportError) as error:
            raise WrongArgument(f"Tensor '{name}' needs a DLPack object or an unused capsule: {error}") from error
        if taken.array is not None:
            made = Tensor(name, taken.array)
        else:
            made = Tensor(name, np.empty(0, np.uint8))
            made._array, made._device_tensor = None, taken.on_device
        made._datatype = taken.datatype
        return made

    def to_dlpack(self) -> Any:
        return self.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        if self._array is None:
            return self._device_tensor.__dlpack__(**options)
        if self._datatype == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        array = self._array if self._array.flags.writeable else self._array.copy()
        if self._datatype == "BF16":
            return _dlpack.bfloat16_capsule(array)
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = (1, 0) if self._array is not None else self._device_tensor.__dlpack_device__()
        return device

    def name(self) -> str:
        return self._name

    def shape(self) -> list[int]:
        return list(self._device_tensor.shape if self._array is None else self._array.shape)

    def triton_dtype(self) -> int:
        """Triton's number of the datatype, e.g. 11 for FP32."""
        return TYPE_NUMBERS[self._datatype]

    def is_cpu(self) -> bool:
        return self._array is not None or self.__dlpack_device__()[0] in _dlpack.CPU_DEVICES

    def as_numpy(self) -> Array:
        if self._array is not None and self._datatype != "BF16":
            return self._array
        if not self.is_cpu():
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        raise TritonModelException(f"tensor '{self._name}' is {self._datatype}, which NumPy does not have; use to_dlpack()")


def _array(value: Any) -> Array | None:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if array.dtype == np.object_ else array


def _datatype(name: str, array: Array) -> str:
    try:
        return wire.datatype_of(array.dtype)
    except ValueError as error:
        raise TritonModelException(f"Tensor '{name}': {error}") from None


def _strings(array: Array) -> list[bytes | str]:
    """The elements of an object array; what is neither bytes nor str is written as `str` does (Triton's helpers)."""
    return [each if isinstance(each, bytes | str) else str(each) for each in array.reshape(-1)]


#: Triton's names of datatypes in config.pbtxt -> numpy types.
TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    **{f"TYPE_{name}": dtype.type for name, dtype in wire.NUMPY_DTYPES.items() if name != "BF16"},
    "TYPE_BOOL": bool,
    "TYPE_STRING": np.object_,
}


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type of a config.pbtxt datatype: `TYPE_FP32` -> np.float32, `TYPE_BOOL` -> bool."""
    found = TRITON_STRING_TO_NUMPY.get(triton_type_string)
    if found is None:
        raise TritonModelException(
            f"'{triton_type_string}' has no numpy type; expected one of {sorted(TRITON_STRING_TO_NUMPY)}"
        )
    return found


def numpy_to_triton_type(data_type: Any) -> int:
    """Triton's number of a numpy type."""
    return TYPE_NUMBERS[_datatype("", np.empty(0, data_type))]


def triton_to_numpy_type(data_type: int) -> Any:
    """The numpy type of Triton's number of a datatype."""
    name = _NAMES.get(data_type)
    if name is None:
        raise TritonModelException(f"unknown datatype number {data_type}")
    found = triton_string_to_numpy(f"TYPE_{name.replace('BYTES', 'STRING')}")
    return np.bool_ if found is bool else found


def serialize_byte_tensor(input_tensor: Array) -> bytes | tuple[()]:
    """A BYTES array in the wire layout (uint32 length, bytes, …) as bytes; an empty tuple where it is empty (Triton).

    WrongArgument for arrays of other types, for which Triton gives None.
    """
    array = np.asarray(input_tensor)
    if array.size == 0:
        return ()
    if array.dtype.kind not in "OSU":
        raise WrongArgument(f"serialize_byte_tensor takes an array of objects, bytes or text, got {array.dtype}")
    return wire.pack_bytes(_strings(array))


def deserialize_bytes_tensor(encoded_tensor: Any) -> Array:
    """The elements of a packed BYTES tensor (any buffer of bytes), as a flat object array of bytes."""
    try:
        elements = wire.unpack_bytes(memoryview(encoded_tensor))
    except (TypeError, ValueError) as error:
        raise WrongArgument(f"this is no packed BYTES tensor: {error}") from None
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array
