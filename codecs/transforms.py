"""The image transforms of torchvision's classification presets on PIL images, without torchvision and torch.

Each follows the documented definition of the torchvision transform of the same name, rounding included, so that a model
trained with torchvision sees the same numbers. All are callables, as torchvision's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Resize:
    """Resize to (height, width), or with a single size so that the smaller edge has it, keeping the aspect ratio.

    The longer edge is `int(size * long / short)` pixels. Bilinear, with Pillow's antialiasing.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = (size,) if isinstance(size, int) else tuple(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        target = self.target(image.width, image.height)
        return image if target == image.size else image.resize(target, Image.Resampling.BILINEAR)

    def target(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the transform, at least one pixel each."""
        if len(self.size) == 2:
            return self.size[1], self.size[0]
        short, long = sorted((width, height))
        longer = max(1, int(self.size[0] * long / short))
        return (self.size[0], longer) if width <= height else (longer, self.size[0])


@dataclass(frozen=True, slots=True)
class Placed:
    """How a picture is cut: `left`, `top`, `right`, `bottom` pixels of black around it, then a window at (`x`, `y`)."""

    left: int
    top: int
    right: int
    bottom: int
    x: int
    y: int
    width: int
    height: int


class CenterCrop:
    """The central (height, width) pixels; smaller images are padded with black first.

    The offset is `round((image - crop) / 2)` with Python's rounding of halves to even, the padding is one pixel more at
    the right and the bottom where it cannot be equal.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        placed = self.placed(*image.size)
        if placed is None:
            return image
        canvas = (image.width + placed.left + placed.right, image.height + placed.top + placed.bottom)
        if canvas != image.size:
            padded = Image.new(image.mode, canvas)
            padded.paste(image, (placed.left, placed.top))
            image = padded
        if canvas == (placed.width, placed.height):
            return image
        return image.crop((placed.x, placed.y, placed.x + placed.width, placed.y + placed.height))

    def placed(self, width: int, height: int) -> Placed | None:
        """What is done to a picture of this size; None = nothing."""
        rows, columns = self.size
        if (height, width) == (rows, columns):
            return None
        more_x, more_y = max(0, columns - width), max(0, rows - height)
        x, y = round((width + more_x - columns) / 2), round((height + more_y - rows) / 2)
        return Placed(more_x // 2, more_y // 2, more_x - more_x // 2, more_y - more_y // 2, x, y, columns, rows)


class Normalize:
    """`(pixel / 255 - mean) / std` of an 8-bit image as float32 [channels, height, width] (ToTensor and Normalize).

    An 8-bit pixel has 256 values, so the arithmetic is done once for each (in float32, in torchvision's order of
    operations) and then looked up. `mean` and `std` have one number, or one for each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        scaled = np.arange(256, dtype=np.float32) / np.float32(255)
        self._tables = [
            (scaled - np.float32(shift)) / np.float32(scale)
            for shift, scale in np.broadcast(np.asarray(mean, np.float32), np.asarray(std, np.float32))
        ]

    def __call__(self, image: Image.Image) -> Floats:
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        height, width, channels = pixels.shape
        out = np.empty((channels, height, width), np.float32)
        for channel in range(channels):
            np.take(self._tables[channel % len(self._tables)], pixels[:, :, channel], out=out[channel], mode="clip")
        return out


class ToTensor(Normalize):
    """`pixel / 255` as float32 [channels, height, width]."""

    def __init__(self) -> None:
        super().__init__((0.0,), (1.0,))
