"""`BatchBuffers`: the rows of a batch's requests, one after the other, in buffers that are kept between batches.

A row is written once, from its request's shared memory to its place in the batch. A lone request needs no copy: the model reads
its shared memory, unless it modifies its inputs or must be padded. Rows beyond those of the requests (`padded`) are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.request import Request
from ..core.tensor import NUMPY_DTYPES, Tensor

if TYPE_CHECKING:
    from ..codecs.pixels import Pixels
    from ..core.model_config import ModelConfig

ALIGNMENT = 64
#: Bytes that are copied by a memoryview, and announced together: numpy's copy costs more, and lets other threads run.
_SMALL = 64 << 10
Bytes = npt.NDArray[np.uint8]
Key = tuple[str, str]
"""An input's name and datatype: what has a buffer of its own."""
Written = Callable[[Key, Bytes, int, int], None]


class BadInput(ValueError):
    """A request's tensors do not fit the model; only that request fails."""


@dataclass(slots=True)
class Array:
    """Elements of one tensor in host memory with their KServe v2 datatype; BF16 values are bit patterns in uint16."""

    datatype: str
    values: npt.NDArray[Any]

    @classmethod
    def of(cls, tensor: Tensor) -> Array:
        return cls(tensor.datatype, tensor.numpy())


class OnDevice(Tensor):
    """A tensor whose `elements` lie on the device already, as the backend's library has them; `data` is empty."""

    elements: Any = None


def aligned(size: int) -> Bytes:
    """`size` bytes, aligned for vector loads."""
    raw = np.empty(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


class BatchBuffers:
    """Stacks one input after the other. `allocate` makes a buffer of so many bytes.

    `written(key, buffer, start, stop)` is told which bytes of a buffer are complete, in ascending order, so that a copy to the
    device can begin while the rest is being written. `pixels` names the input whose rows may be bytes yet to be normalised:
    a batch of nothing else stays UINT8, one that mixes them with floats is normalised here.
    """

    def __init__(
        self, model: ModelConfig, allocate: Callable[[int], Bytes], written: Written, pixels: Pixels | None = None
    ) -> None:
        self._model, self._allocate, self._written, self._pixels = model, allocate, written, pixels
        self.buffers: dict[Key, Bytes] = {}

    def stack(self, name: str, requests: Sequence[Request], padded: int, copies_single: bool) -> Array:
        """Input `name` of all requests as `padded` rows (without a batch axis: as the only request's own shape)."""
        tensors = [named(request, name) for request in requests]
        datatype = self._common(tensors)
        if datatype == "BYTES":
            arrays = [tensor.numpy() for tensor in tensors]
            return Array("BYTES", arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        whole = len(tensors) == 1 and (not self._model.batches or tensors[0].shape[0] == padded)
        if whole and not copies_single and (lone := tensors[0].numpy()).flags.aligned:
            return Array(datatype, lone)
        return Array(datatype, self._copy(name, tensors, datatype, padded))

    def _common(self, tensors: Sequence[Tensor]) -> str:
        """The datatype of the batch: the tensors' own, or the declared one where some rows are bytes and some are not."""
        found = {tensor.datatype for tensor in tensors}
        return self._pixels.datatype if len(found) > 1 and self._pixels is not None else tensors[0].datatype

    def _copy(self, name: str, tensors: Sequence[Tensor], datatype: str, padded: int) -> npt.NDArray[Any]:
        batches = self._model.batches
        trailing = tensors[0].shape[1:] if batches else tensors[0].shape
        dtype = NUMPY_DTYPES[datatype]
        rows, row_size = padded if batches else 1, prod(trailing) * dtype.itemsize
        buffer = self._buffer(name, datatype, max(rows, self._model.max_batch_size) * row_size, rows * row_size)
        stacked: npt.NDArray[Any] = buffer[: rows * row_size].view(dtype).reshape(rows, *trailing)
        key, memory = (name, datatype), buffer.data
        row = at = told = 0  # `at` and `told` count bytes
        for tensor in tensors:
            count = tensor.shape[0] if batches else 1
            end, data = at + count * row_size, memoryview(tensor.data)
            if tensor.datatype == datatype and data.nbytes == end - at <= _SMALL and data.format == "B" and data.ndim == 1:
                memory[at:end] = data
            else:
                stacked[row : row + count] = self._values(tensor, datatype).reshape(count, *trailing)
            row, at = row + count, end
            if at - told > _SMALL:
                self._written(key, buffer, told, at)
                told = at
        stacked[row:] = 0
        if told < rows * row_size:
            self._written(key, buffer, told, rows * row_size)
        return stacked if batches else stacked[0]

    def _buffer(self, name: str, datatype: str, most: int, needed: int) -> Bytes:
        """One that has room for `needed` bytes; `most` are those of the largest batch of such rows.

        It grows by doubling: where sizes are open, one large row must not lock the memory of a whole batch of its like.
        """
        buffer = self.buffers.get((name, datatype))
        if buffer is None or buffer.size < needed:
            self.buffers.pop((name, datatype), None)  # it can be freed before the next one is taken
            size = min(most, 1 << max(needed - 1, 0).bit_length())
            buffer = self.buffers[name, datatype] = self._allocate(max(size, needed))
        return buffer

    def _values(self, tensor: Tensor, datatype: str) -> npt.NDArray[Any]:
        if tensor.datatype == datatype or self._pixels is None:
            return tensor.numpy()
        return self._pixels.normalize(tensor.numpy())


def named(request: Request, name: str) -> Tensor:
    for tensor in request.tensors:
        if tensor.name == name:
            return tensor
    raise BadInput(f"request '{request.id}' lacks input '{name}'")


def split(name: str, array: Array, rows: Sequence[int]) -> list[Tensor]:
    """An output's rows, so many for each request, as views of its memory where it is contiguous and not small."""
    ends = list(accumulate(rows))
    if array.values.dtype.kind in "OSU":
        parts = [array.values[end - count : end] for end, count in zip(ends, rows, strict=True)]
        return [Tensor.from_numpy(name, part) for part in parts]
    whole = Tensor.from_numpy(name, array.values, array.datatype)
    data, trailing, size = whole.data, whole.shape[1:], whole.nbytes // max(whole.shape[0], 1)
    return [
        Tensor(name, whole.datatype, (count, *trailing), data[(end - count) * size : end * size])
        for end, count in zip(ends, rows, strict=True)
    ]
