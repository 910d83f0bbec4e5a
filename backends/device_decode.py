"""`DeviceDecoder`: a batch's pictures decoded, resized and cropped on the card (parameter `decode` "device").

The codec in the server hands pictures on as they came. Here all JPEGs of a batch that nvJPEG reads (`codecs.jpeg`) go through one
call of torchvision's decoder; each size of picture is then resized in one kernel, with the sizes and the crop of the host
(`codecs.geometry`), bilinear with Pillow's antialiasing, and rounded to bytes, which are normalised as rows from the host are.
Every other picture is decoded by Pillow in this process, one after the other, and fails alone, with the text that the codec would
have given.

All this happens on a stream of its own, so that the last batch's kernels may run meanwhile (`launching`); the stream that
computes waits for the stacked pixels.

Against the host's rows the same decoded pixels differ by at most one step of 255, since Pillow rounds between its two
directions and a card does not. nvJPEG itself differs from libjpeg where colours were stored at half the resolution: by its
documentation it repeats them unless it is told otherwise, libjpeg interpolates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec.structs import replace
from torch.nn import functional

from ..codecs.geometry import Geometry, sample
from ..codecs.jpeg import Plain, Unfit, head
from ..core.errors import InvalidRequest
from ..core.request import Failure, Request
from ..core.tensor import unpack_bytes
from .base import DeviceLost
from .memory import is_out_of_memory
from .options import CannotLoad
from .stacking import OnDevice
from .staging import new_stream
from .telling import text_of

if TYPE_CHECKING:
    from ..codecs import Pixels
    from ..core.model_config import ModelConfig

Decode = Callable[[list[torch.Tensor]], list[torch.Tensor]]
"""JPEGs as UINT8 vectors in the host's memory to pictures [3, height, width] on the device, in order; raises for all of them
where one cannot be read."""

#: Pixels that are decoded and resized at once; a larger picture is alone. As floats they are 400 MB.
AT_ONCE = 1 << 25
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A picture for the device, its place in the batch, and its pixels before or after it is resized, whichever are more."""

    place: int
    data: bytes
    pixels: int


class DeviceDecoder:
    """One for each worker. `lost` is asked after an error: why the device is lost to this process, "" = it is not."""

    def __init__(
        self, model: ModelConfig, pixels: Pixels, geometry: Geometry, device: torch.device, decode: Decode,
        lost: Callable[[], str],
    ) -> None:  # fmt: skip
        self._model, self._name, self._geometry, self._device = model, pixels.name, geometry, device
        self._decode, self._lost = decode, lost
        self._stream = new_stream(device) if device.type == "cuda" else None
        self._told: set[str] = set()

    def prepared(self, requests: Sequence[Request]) -> list[Request | Failure]:
        """The requests, those that bring a picture with its pixels in place of it; or why a picture cannot be had."""
        found: list[Request | Failure] = list(requests)
        places = [at for at, request in enumerate(requests) if self._is_picture(request)]
        if not places:
            return found
        pictures = self.pictures([unpack_bytes(requests[at].tensors[0].data)[0] for at in places])
        for at, picture in zip(places, pictures, strict=True):
            found[at] = picture if isinstance(picture, Failure) else self._request(requests[at], picture)
        return found

    def _is_picture(self, request: Request) -> bool:
        """Whether it is what the codec sends: one string. Everything else is for the check of inputs to judge."""
        if len(request.tensors) != 1:
            return False
        tensor, shape = request.tensors[0], (1, 1) if self._model.batches else (1,)
        return tensor.name == self._name and tensor.datatype == "BYTES" and tensor.shape == shape

    def _request(self, request: Request, picture: torch.Tensor) -> Request:
        shape = (1, *picture.shape) if self._model.batches else tuple(picture.shape)
        return replace(request, tensors=[OnDevice(self._name, "UINT8", shape, b"", picture)])

    # -- pictures ---------------------------------------------------------------------------------------------------

    def pictures(self, data: Sequence[bytes]) -> list[torch.Tensor | Failure]:
        """Each picture as bytes [channels, height, width] on the device, for `stacked` alone, or why it cannot be had."""
        with self._on_stream():
            return self._pictures(data)

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _pictures(self, data: Sequence[bytes]) -> list[torch.Tensor | Failure]:
        found: dict[int, torch.Tensor | Failure] = {}
        here: list[tuple[int, bytes, str]] = []
        sent: list[_Sent] = []
        for place, each in enumerate(data):
            fit = self._pixels(head(each))
            if isinstance(fit, Unfit):
                here.append((place, each, fit.reason))
            else:
                sent.append(_Sent(place, each, fit))
        for part in _parts(sent):
            self._on_device(part, found, here)
        for place, each, reason in here:
            found[place] = self._on_host(each, reason)
        return [found[place] for place in range(len(data))]

    def _pixels(self, size: Plain | Unfit) -> int | Unfit:
        """What a picture takes on the device. What is too large is left to Pillow, which refuses it in the codec's words."""
        if isinstance(size, Unfit):
            return size
        try:
            columns, rows = self._geometry.resized(size.width, size.height)
        except InvalidRequest:
            return Unfit("a JPEG of extreme proportions")
        pixels = size.width * size.height
        return max(pixels, columns * rows) if pixels <= self._geometry.limit else Unfit("a large JPEG")

    def _on_device(
        self, part: list[_Sent], found: dict[int, torch.Tensor | Failure], here: list[tuple[int, bytes, str]]
    ) -> None:
        """One call for all of `part`, in halves where it raises, so that only those that cause it are left to Pillow."""
        try:
            decoded = self._made(part)
        except Exception as error:
            if why := self._lost():
                raise DeviceLost(f"model '{self._model.name}' lost its device: {why}") from error
            if self._device.type == "cuda" and is_out_of_memory(error):
                torch.cuda.empty_cache()
            if len(part) == 1:
                reason = text_of(error).split("\n", 1)[0]
                here.append((part[0].place, part[0].data, f"a JPEG that the device refuses ({reason})"))
                return
            half = len(part) // 2
            self._on_device(part[:half], found, here)
            self._on_device(part[half:], found, here)
            return
        found.update(decoded)

    def _made(self, part: Sequence[_Sent]) -> dict[int, torch.Tensor | Failure]:
        """Decodes and resizes `part`, each size of picture at once."""
        if self._stream is not None:
            self._stream.synchronize()  # torchvision decodes on a third one, into memory that this one may still be reading
        decoded = self._decode([torch.from_numpy(np.frombuffer(each.data, np.uint8)) for each in part])
        sizes: dict[tuple[int, ...], list[int]] = {}
        for at, picture in enumerate(decoded):
            sizes.setdefault(tuple(picture.shape), []).append(at)
        found: dict[int, torch.Tensor | Failure] = {}
        for places in sizes.values():
            rows = self._shaped(torch.stack([decoded[at] for at in places]))
            found.update({part[at].place: row for at, row in zip(places, rows, strict=True)})
        return found

    def _shaped(self, pictures: torch.Tensor) -> torch.Tensor:
        """[n, 3, height, width] as the model sees them."""
        geometry, (height, width) = self._geometry, pictures.shape[2:]
        if geometry.mode == "L":
            pictures = grey(pictures)
        columns, rows = geometry.resized(width, height)
        if (rows, columns) != (height, width):
            resized = functional.interpolate(
                pictures.float(), (rows, columns), mode="bilinear", align_corners=False, antialias=True
            )
            pictures = resized.round_().to(torch.uint8)
        if (placed := geometry.placed(columns, rows)) is None:
            return pictures
        padding = (placed.left, placed.right, placed.top, placed.bottom)
        if any(padding):
            pictures = functional.pad(pictures, padding)
        window = pictures[:, :, placed.y : placed.y + placed.height, placed.x : placed.x + placed.width]
        return window.contiguous()

    def _on_host(self, data: bytes, reason: str) -> torch.Tensor | Failure:
        """By Pillow, as the codec would. The first picture of each kind is told, since it costs this process' time."""
        try:
            rows = self._geometry.rows(data)
        except InvalidRequest as error:
            return Failure(str(error), code="INVALID_ARG")
        kind = reason.partition(" (")[0]
        if kind not in self._told:
            self._told.add(kind)
            _log.info(
                "model '%s': %s is decoded by Pillow in the worker, as all of its kind; decode device is for baseline JPEGs",
                self._model.name, reason,
            )  # fmt: skip
        return torch.from_numpy(rows).to(self._device)

    def stacked(self, tensors: Sequence[OnDevice], padded: int) -> torch.Tensor:
        """The pixels of a batch for the current stream, filled up with rows of zeros; without a batch axis the only picture's."""
        with self._on_stream():
            pixels = self._stacked(tensors, padded)
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            pixels.record_stream(current)  # else its memory could be given to the next batch's pictures while it is read
        return pixels

    def _stacked(self, tensors: Sequence[OnDevice], padded: int) -> torch.Tensor:
        if not self._model.batches:
            row: torch.Tensor = tensors[0].elements
            return row
        rows = torch.stack([tensor.elements for tensor in tensors])
        return functional.pad(rows, (0, 0, 0, 0, 0, 0, 0, padded - len(rows))) if padded > len(rows) else rows


def _parts(sent: Sequence[_Sent]) -> Iterator[list[_Sent]]:
    """What is decoded at once."""
    part: list[_Sent] = []
    pixels = 0
    for each in sent:
        if part and pixels + each.pixels > AT_ONCE:
            yield part
            part, pixels = [], 0
        part.append(each)
        pixels += each.pixels
    if part:
        yield part


def grey(pictures: torch.Tensor) -> torch.Tensor:
    """[n, 3, …] as [n, 1, …] with Pillow's weights, rounding included (its `convert("L")`: ITU-R 601-2)."""
    red, green, blue = pictures.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(1)


def nvjpeg(device: torch.device) -> Decode:
    """torchvision's decoder on `device`; CannotLoad where torchvision is missing, or fits another torch."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except Exception as error:  # one that was built for another torch raises what it likes
        raise CannotLoad(
            "parameter decode 'device' needs torchvision, whose decoder runs on the card, in the version that belongs to torch "
            f"{torch.__version__}: pip install torchvision, or set decode to host ({type(error).__name__}: {text_of(error)})"
        ) from error

    def decode(pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        decoded: Any = decode_jpeg(pictures, mode=ImageReadMode.RGB, device=device)
        return list(decoded)

    return decode


def opened(
    model: ModelConfig, pixels: Pixels, geometry: Geometry, device: torch.device, lost: Callable[[], str]
) -> DeviceDecoder:
    """A decoder that has decoded a picture; CannotLoad with the reason and what to do."""
    if device.type != "cuda":
        raise CannotLoad(
            f"parameter decode 'device' needs a GPU, this instance of model '{model.name}' runs on the CPU: set KIND_GPU in "
            "instance_group, or set decode to host"
        )
    decode = nvjpeg(device)
    try:
        decode([torch.frombuffer(bytearray(sample()), dtype=torch.uint8)])
    except Exception as error:
        raise CannotLoad(
            f"parameter decode 'device': torchvision cannot decode a JPEG on {device}, set decode to host, or install a "
            f"torchvision that was built with nvJPEG ({text_of(error).splitlines()[0] if text_of(error) else error!r})"
        ) from error
    return DeviceDecoder(model, pixels, geometry, device, decode, lost)
