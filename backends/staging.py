"""`Staging`: copies of the batch buffers on the device, begun while the batch is still being stacked.

Rows are written to page-locked memory one request after the other. Whenever a piece is complete, its copy is queued on a stream
of its own, so the bus works while the processor stacks the next rows; the stream that computes waits for the last piece. The
device's memory is kept between batches: its addresses do not change.

The previous batch of the same buffers is over when the next one is stacked in them (`launching`: two batches at once have two
spaces), because a batch ends with a wait for its outputs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .stacking import Bytes, Key

#: Bytes of a piece: smaller ones cost more calls than they save waiting.
PIECE = 1 << 20


@dataclass(slots=True)
class _Mirror:
    """A host buffer and its like on the device; bytes up to `sent` are on their way, up to `end` they are written."""

    host: torch.Tensor
    device: torch.Tensor
    address: int
    sent: int = 0
    end: int = 0


class Staging:
    """One for each space; its methods are called by the thread that executes batches."""

    def __init__(self, device: torch.device, piece: int = PIECE) -> None:
        self._device, self._piece = device, piece
        self._stream = new_stream(device) if device.type == "cuda" else None
        self._mirrors: dict[Key, _Mirror] = {}

    def written(self, key: Key, buffer: Bytes, start: int, stop: int) -> None:
        """`BatchBuffers.written`: begins the copy where a piece is complete."""
        mirror = self._mirror(key, buffer)
        if start == 0:
            mirror.sent = 0
        mirror.end = stop
        if stop - mirror.sent >= self._piece:
            self._send(mirror)

    def take(self, values: npt.NDArray[Any]) -> torch.Tensor | None:
        """The bytes of a stacked array on the device, for what is queued on the current stream from now on.

        None where `values` are not in a buffer that was announced.
        """
        address = values.ctypes.data
        mirror = next((found for found in self._mirrors.values() if found.address == address), None)
        if mirror is None or mirror.end != values.nbytes:
            return None
        self._send(mirror)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return mirror.device[: mirror.end]

    def _mirror(self, key: Key, buffer: Bytes) -> _Mirror:
        mirror = self._mirrors.get(key)
        if mirror is None or mirror.address != buffer.ctypes.data or mirror.host.numel() != buffer.size:
            host = torch.from_numpy(buffer)
            mirror = self._mirrors[key] = _Mirror(host, torch.empty_like(host, device=self._device), buffer.ctypes.data)
        return mirror

    def _send(self, mirror: _Mirror) -> None:
        if mirror.sent < mirror.end:
            part = slice(mirror.sent, mirror.end)
            with self._on_stream():
                mirror.device[part].copy_(mirror.host[part], non_blocking=True)
        mirror.sent = mirror.end

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def pinned(size: int) -> Bytes:
    """`size` bytes of page-locked memory, from which copies to a GPU do not wait."""
    memory: npt.NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


def new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
