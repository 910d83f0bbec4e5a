"""DLPack for `Tensor`: what other libraries hand over, as numpy arrays or as tensors of torch where they lie on a device.

numpy reads everything but bfloat16, which it does not have. A capsule is therefore read as what it is in C (dlpack.h), and
bfloat16 is declared to be uint16 to numpy, or the other way round: the memory stays the same.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitney.core import tensor as wire

CPU_DEVICES = (1, 3)  # kDLCPU, kDLCUDAHost
_UINT, _BFLOAT = 1, 4  # DLDataTypeCode


class _DLTensor(ctypes.Structure):
    """The head of DLTensor, with which a capsule's DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Capsule:
    """A bare capsule as an object that follows the protocol."""

    def __init__(self, capsule: Any) -> None:
        self.capsule, self.head = capsule, _head(capsule)

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.head.device_type, self.head.device_id


@dataclass(frozen=True, slots=True)
class Taken:
    """A tensor of another library: an array, or a tensor of torch on a device; BF16 is an array of uint16."""

    datatype: str
    array: npt.NDArray[Any] | None = None
    on_device: Any = None


def take(source: Any) -> Taken:
    """A DLPack object or a capsule that nobody used, whose memory is shared from now on.

    ValueError where it is neither; what the exporting library raises where it refuses (a tensor that needs gradients).
    """
    if hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__"):
        if source.__dlpack_device__()[0] not in CPU_DEVICES:
            return _take_from_device(source)
        if isinstance(source, np.ndarray):
            return Taken(wire.datatype_of(source.dtype), source)
        source = source.__dlpack__()
    capsule = _Capsule(source)
    if capsule.head.device_type not in CPU_DEVICES:
        return _take_from_device(source)
    is_bfloat16 = (capsule.head.code, capsule.head.bits, capsule.head.lanes) == (_BFLOAT, 16, 1)
    if is_bfloat16:
        capsule.head.code = _UINT
    array = np.from_dlpack(capsule)
    return Taken("BF16" if is_bfloat16 else wire.datatype_of(array.dtype), array)


def bfloat16_capsule(bits: npt.NDArray[Any]) -> Any:
    """A capsule of bfloat16 that shares memory with an array of uint16."""
    capsule = bits.__dlpack__()
    _head(capsule).code = _BFLOAT
    return capsule


def host_copy(source: Any) -> npt.NDArray[Any]:
    """A tensor of a device as an array on the host; BF16 as uint16."""
    import torch

    tensor = source.detach().cpu().contiguous()
    array: npt.NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def _take_from_device(source: Any) -> Taken:
    """Through torch, which waits for the exporter's stream. ImportError where there is no torch."""
    import torch.utils.dlpack

    tensor = torch.utils.dlpack.from_dlpack(source)
    is_bfloat16 = tensor.dtype is torch.bfloat16
    return Taken("BF16" if is_bfloat16 else wire.datatype_of(host_copy(tensor[:0]).dtype), on_device=tensor)


def _head(capsule: Any) -> _DLTensor:
    """The tensor inside an unused capsule; ValueError for anything else."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return _DLTensor.from_address(pointer(capsule, b"dltensor"))
