"""Bytes to a PIL image, safely: known raster formats only, size checked before a pixel is decoded."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..core.errors import InvalidRequest
from ..core.tensor import Buffer

#: Formats that Pillow decodes in-process into one raster. Left out: EPS (starts Ghostscript), PDF, icon containers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "SGI")
#: Pillow's own limit against decompression bombs: a quarter of a gigabyte of 8-bit RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3


def allow_any_size() -> None:
    """Switches Pillow's process-wide limit off, for a model that asks for it (TorchServe's `limit_max_image_pixels`)."""
    Image.MAX_IMAGE_PIXELS = None


def open_image(data: Buffer, mode: str, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """Decodes `data` completely and converts it to `mode` ("RGB" or "L"). Raises `InvalidRequest` saying why not."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise InvalidRequest(f"the image has {image.width} x {image.height} pixels; at most {max_pixels} are accepted")
        image.load()
        return _convert(image, mode)
    except UnidentifiedImageError:
        size = memoryview(data).nbytes
        raise InvalidRequest(f"cannot decode the image: {size} bytes that are none of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidRequest(f"cannot decode the image: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, MemoryError) as error:
        # Pillow's plugins raise all of these for damaged files
        raise InvalidRequest(f"cannot decode the image: {error or type(error).__name__}") from None


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow's convert would clip at 255
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def from_base64(text: str) -> bytes:
    """The bytes of base64 text, line breaks allowed. Raises `InvalidRequest`."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"cannot decode the image: text that is not base64 ({error})") from None


def rows_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The image's bytes as [channels, height, width]; Pillow takes the channels apart faster than a transposing copy."""
    bands: Sequence[Image.Image] = image.split()
    rows = np.empty((len(bands), image.height, image.width), np.uint8)
    for row, band in zip(rows, bands, strict=True):
        row[:] = np.asarray(band)
    return rows
