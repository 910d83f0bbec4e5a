"""`Tensor`: a named array on the CPU, or a DLPack object on a device; and the datatypes by their several names."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from jitney.backends import tensor as wire

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
_CPU_DEVICES = (1, 3)  # DLPack: kDLCPU, kDLCUDAHost


class _Capsule:
    """A bare DLPack capsule as an object that follows the protocol."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule
        # DLManagedTensor begins with the data's pointer, then the device as two 32-bit integers (dlpack.h).
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        address = pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)
        kind, number = (ctypes.c_int32 * 2).from_address(address)
        self._device = (kind, number)

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


class Tensor:
    """A named tensor. The array is made contiguous; str and object arrays are BYTES tensors.

    What is no array yet (a list, a scalar, a torch tensor on the CPU) is made one, as pybind11 does for Triton.
    """

    def __init__(self, name: str, numpy_array: Any) -> None:
        if not isinstance(numpy_array, np.ndarray):
            given, numpy_array = type(numpy_array).__name__, _array(numpy_array)
            if numpy_array is None:
                raise TritonModelException(f"Tensor '{name}' needs a numpy array, got {given}")
        self._name = name
        self._array: Array | None = np.ascontiguousarray(numpy_array) if numpy_array.ndim else numpy_array
        self._device_tensor: Any = None
        self._datatype = _datatype(name, numpy_array)

    @classmethod
    def from_wire(cls, source: wire.Tensor) -> Tensor:
        """A request's tensor, which the model may change: a view of shared memory, except for BYTES."""
        array = source.numpy()
        made = cls(source.name, array if array.flags.writeable else array.copy())
        made._datatype = source.datatype
        return made

    def to_wire(self) -> wire.Tensor:
        if self._array is None:
            array, datatype = _host_copy(self._device_tensor)
        elif self._array.dtype == np.object_:
            return wire.Tensor(self._name, "BYTES", self._array.shape, wire.pack_bytes(_strings(self._array)))
        else:
            array, datatype = self._array, self._datatype
        return wire.Tensor.from_numpy(self._name, array, datatype)

    @staticmethod
    def from_dlpack(name: str, obj: Any) -> Tensor:
        """A tensor that shares memory with a DLPack object or capsule."""
        try:
            source = obj if hasattr(obj, "__dlpack__") else _Capsule(obj)
        except ValueError as error:
            raise TritonModelException(f"Tensor '{name}' needs a DLPack object or an unused capsule: {error}") from None
        if source.__dlpack_device__()[0] in _CPU_DEVICES:
            try:
                return Tensor(name, np.from_dlpack(source))
            except (BufferError, RuntimeError, TypeError):
                pass  # a datatype that numpy does not have: bfloat16
        made = Tensor(name, np.empty(0, np.uint8))
        made._array, made._device_tensor = None, source
        made._datatype = "BF16" if "bfloat16" in str(getattr(obj, "dtype", "")) else _datatype_of_device(source)
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
            import torch

            return torch.from_numpy(array).view(torch.bfloat16).__dlpack__(**options)
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
        return self._array is not None or self.__dlpack_device__()[0] in _CPU_DEVICES

    def as_numpy(self) -> Array:
        if not self.is_cpu():
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        if self._array is not None and self._datatype != "BF16":
            return self._array
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


def _datatype_of_device(source: Any) -> str:
    import torch.utils.dlpack

    sample = torch.utils.dlpack.from_dlpack(source)
    return wire.datatype_of(torch.empty(0, dtype=sample.dtype).numpy().dtype)


def _host_copy(source: Any) -> tuple[Array, str]:
    """A device's or a bfloat16 tensor as an array on the host, with its datatype."""
    import torch.utils.dlpack

    tensor = torch.utils.dlpack.from_dlpack(source).detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy(), "BF16"
    array = tensor.numpy()
    return array, wire.datatype_of(array.dtype)


def _strings(array: Array) -> list[bytes | str]:
    """The elements of an object array; what is neither bytes nor str is written as `str` does (Triton's helpers)."""
    return [each if isinstance(each, bytes | str) else str(each) for each in array.reshape(-1)]


#: Triton's names of datatypes in config.pbtxt -> numpy types.
TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    **{f"TYPE_{name}": dtype.type for name, dtype in wire.NUMPY_DTYPES.items() if name != "BF16"},
    "TYPE_STRING": np.object_,
}


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type of a config.pbtxt datatype: `TYPE_FP32` -> np.float32, `TYPE_STRING` -> np.object_."""
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
    return triton_string_to_numpy(f"TYPE_{name.replace('BYTES', 'STRING')}")


def serialize_byte_tensor(input_tensor: Array) -> Array:
    """A BYTES array in the wire layout (uint32 length, bytes, …), as a one-element object array like Triton's helper."""
    packed = wire.pack_bytes(_strings(input_tensor))
    return np.asarray(packed, dtype=np.object_)


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Array:
    """The elements of a packed BYTES tensor, as a flat object array of bytes."""
    elements = wire.unpack_bytes(encoded_tensor)
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array
