"""Values between requests and torch: datatypes, strings, outputs, and pixels to be normalised."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .batch import Array, BadInput, BadOutput

if TYPE_CHECKING:
    from ..codecs import Pixels

DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
TORCH_DTYPES = {name: dtype for dtype, name in DATATYPES.items()}


@dataclass(slots=True)
class DeviceArray(Array):
    """An input that lies on the device already: `tensor`; `values` are empty."""

    tensor: torch.Tensor

    @classmethod
    def of_tensor(cls, tensor: torch.Tensor) -> DeviceArray:
        return cls(DATATYPES[tensor.dtype], np.empty(0, np.uint8), tensor)


class Normalizer:
    """`(row / 255 - mean) / std` of uint8 rows on a GPU, in float32 and then in the declared datatype.

    The divisor is a tensor of the device: torch would turn a division by a number into a multiplication by its reciprocal on a
    GPU, which is off by a bit.
    """

    def __init__(self, pixels: Pixels, device: torch.device) -> None:
        mean, std = pixels.constants()
        self._mean, self._std = torch.from_numpy(mean).to(device), torch.from_numpy(std).to(device)
        self._scale = torch.full((1, 1, 1), 255.0, device=device)
        self._dtype = TORCH_DTYPES[pixels.datatype]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.div(rows, self._scale).sub_(self._mean).div_(self._std).to(self._dtype)


def from_array(array: Array) -> torch.Tensor:
    """A tensor of the same memory, where that is contiguous."""
    tensor = torch.from_numpy(array.values if array.values.flags.c_contiguous else np.ascontiguousarray(array.values))
    return tensor.view(torch.bfloat16) if array.datatype == "BF16" else tensor


def to_array(tensor: torch.Tensor) -> Array:
    """An output in host memory; BadOutput for a type that no client could be told."""
    datatype = DATATYPES.get(tensor.dtype)
    if datatype is None:
        raise BadOutput(f"the model returned a tensor of {tensor.dtype}, which has no KServe v2 datatype")
    if datatype == "BF16":
        tensor = tensor.view(torch.uint16)
    return Array(datatype, tensor.numpy())


def in_host_memory(value: torch.Tensor | Array) -> Array:
    return value if isinstance(value, Array) else to_array(value)


class DeviceWork:
    """`launching.Work`: outputs whose copies to the host are queued on the current stream of `device`."""

    def __init__(self, outputs: dict[str, torch.Tensor | Array], device: torch.device, cleans_cache: bool) -> None:
        self._outputs, self._cleans_cache = outputs, cleans_cache
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(device))

    def is_over(self) -> bool:
        return bool(self._event.query())

    def outputs(self) -> dict[str, Array]:
        self._event.synchronize()
        found = {name: in_host_memory(value) for name, value in self._outputs.items()}
        if self._cleans_cache:
            torch.cuda.empty_cache()
        return found


def strings(array: Array) -> list[str]:
    """BYTES as TorchScript's List[str]."""
    try:
        return [element.decode() for element in array.values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise BadInput(f"a string element is not UTF-8: {error}") from None


def swallow_read_only_warning() -> None:
    """torch warns once per process when it wraps read-only memory; that memory is not written here (`_stop_sharing`)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        torch.from_numpy(np.frombuffer(b"\0", dtype=np.uint8))
