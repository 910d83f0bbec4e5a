"""`Geometry`: what becomes of a picture between its bytes and the pixels that a model sees, wherever that is done.

On the host Pillow does it (`rows`): in a thread of the server, or in the worker for pictures that a device's decoder does not
read. On a device the worker takes the same sizes from here (`resized`, `placed`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core.errors import InvalidRequest
from ..core.tensor import Buffer
from .image import MAX_PIXELS, open_image, rows_of
from .transforms import CenterCrop, Placed, Resize

#: Height and width of the picture with which a decoder is tried.
SAMPLE = (240, 320)


@dataclass(frozen=True)
class Geometry:
    """`mode` is RGB or L, the steps are None where they are switched off, `max_pixels` None means any number."""

    mode: str
    resize: Resize | None
    crop: CenterCrop | None
    max_pixels: int | None = MAX_PIXELS

    @property
    def limit(self) -> int:
        """Pixels that a picture may be resized to."""
        return self.max_pixels or MAX_PIXELS

    def image(self, data: Buffer) -> Image.Image:
        """The picture as the model sees it. Raises `InvalidRequest` saying why it cannot be had."""
        image = open_image(data, self.mode, self.max_pixels)
        if self.resize is not None:
            self.resized(*image.size)
            image = self.resize(image)
        return image if self.crop is None else self.crop(image)

    def rows(self, data: Buffer) -> npt.NDArray[np.uint8]:
        """`image` as bytes [channels, height, width]."""
        return rows_of(self.image(data))

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after `resize`. Refuses pictures of extreme proportions, whose longer edge would grow without
        measure."""
        if self.resize is None:
            return width, height
        target = self.resize.target(width, height)
        if target[0] * target[1] > self.limit:
            raise InvalidRequest(f"an image of {width} x {height} pixels would be resized to {target[0]} x {target[1]}")
        return target

    def placed(self, width: int, height: int) -> Placed | None:
        """Where `crop` cuts a picture of this size; None where it leaves it as it is."""
        return None if self.crop is None else self.crop.placed(width, height)


def sample() -> bytes:
    """A JPEG that every decoder reads: a gradient."""
    height, width = SAMPLE
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()
