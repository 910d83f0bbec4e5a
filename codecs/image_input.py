"""The input half of the image codecs: a request's image to one tensor [channels, height, width].

Its numbers are floats, or bytes where the worker normalises them (`pixels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..core.errors import InvalidConfig, InvalidRequest
from ..core.model_config import ModelConfig
from ..core.request import Part
from ..core.tensor import NUMPY_DTYPES, Tensor
from .base import Codec, load_json, main_part, refuse_explanation
from .image import MAX_PIXELS, allow_any_size, from_base64, open_image
from .options import Options, only_input
from .pixels import PARAMETER, Pixels, obstacle, rows_of
from .transforms import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, Resize


class ImageCodec(Codec):
    """Decodes as TorchServe's VisionHandler does, except that every image is converted to `image_mode` first.

    The part may hold image bytes, base64 text (content type text/*) or a JSON list (application/json), which is the tensor
    itself. Parameters: `image_mode` RGB or L, `resize`, `crop` ("256", or "height,width", "0" = off), `mean`, `std` (one
    number or one for each channel), `normalize_on_device` (auto), `max_image_pixels`.
    """

    resize: tuple[int, ...] = (256,)
    crop: tuple[int, ...] = (224,)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = Options(config)
        self._input = only_input(config)
        if self._input.datatype not in ("FP16", "FP32", "FP64"):
            raise InvalidConfig(
                f"model '{config.name}': codec '{config.codec}' makes FP16, FP32 or FP64 tensors, "
                f"input '{self._input.name}' is {self._input.datatype}"
            )
        self._mode = options.choice("image_mode", "RGB", ("RGB", "L"))
        resize, crop = options.size("resize", self.resize), options.size("crop", self.crop)
        self._resize = Resize(resize) if resize else None
        self._crop = CenterCrop(crop[0] if len(crop) == 1 else crop) if crop else None
        self._pixels = self.pixels_of(config)
        self._normalize = Normalize(*self._moments(options))
        self._check_dims((crop * 2)[:2] if crop else resize if len(resize) == 2 else (-1, -1))
        as_bytes = [replace(spec, datatype="UINT8") if spec is self._input else spec for spec in config.inputs]
        self._as_bytes = replace(config, inputs=tuple(as_bytes))
        self._max_pixels: int | None = options.whole("max_image_pixels", MAX_PIXELS) if self._limited() else None

    def _limited(self) -> bool:
        limited = self.config.handler is None or self.config.handler.limit_max_image_pixels
        if not limited:
            allow_any_size()
        return limited

    @classmethod
    def pixels_of(cls, config: ModelConfig) -> Pixels | None:
        """What the worker is to normalise, None where this codec does it. `InvalidConfig` where it is asked for in vain."""
        options, spec = Options(config), only_input(config)
        wanted = options.choice(PARAMETER, "auto", ("auto", "true", "false"))
        reason = obstacle(config, spec)
        if wanted == "true" and reason:
            raise InvalidConfig(f"model '{config.name}': parameter '{PARAMETER}' cannot be true: {reason}")
        if wanted == "false" or reason:
            return None
        return Pixels(spec.name, spec.datatype, *cls._moments(options))

    @classmethod
    def _moments(cls, options: Options) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of pixels in 0..1: one number, or one for each channel."""
        grey = options.choice("image_mode", "RGB", ("RGB", "L")) == "L"
        counts = (1,) if grey else (1, 3)
        mean = options.numbers("mean", (0.0,) if grey else cls.mean, counts)
        std = options.numbers("std", (1.0,) if grey else cls.std, counts)
        if 0.0 in std:
            raise options.refuse("std", "numbers other than 0")
        return mean, std

    def _check_dims(self, size: Sequence[int]) -> None:
        made = (3 if self._mode == "RGB" else 1, *size)
        dims = self._input.dims
        if len(dims) != 3 or any(a != b and a != -1 and b != -1 for a, b in zip(dims, made, strict=True)):
            raise InvalidConfig(
                f"model '{self.config.name}': codec '{self.config.codec}' makes tensors of {list(made)} (image_mode, resize and "
                f"crop in parameters decide), input '{self._input.name}' has dims {list(dims)}"
            )

    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        refuse_explanation(self.config, headers)
        array = self._array(main_part(parts))
        if array.dtype != np.uint8:  # bytes are for the worker to normalise; a JSON list is the tensor, and never of bytes
            array = array.astype(NUMPY_DTYPES[self._input.datatype], copy=False)
        return [Tensor.from_numpy(self._input.name, array[None] if self.config.batches else array)]

    def expects(self, tensors: Sequence[Tensor]) -> ModelConfig:
        if tensors[0].datatype != "UINT8":
            return self.config
        return self._as_bytes

    def _array(self, part: Part) -> npt.NDArray[Any]:
        if part.content_type == "application/json":
            return self._from_list(load_json(part.data))
        if part.content_type.startswith("text"):
            return self._from_image(from_base64(bytes(part.data).decode("ascii", "replace")))
        return self._from_image(part.data)

    def _from_image(self, data: bytes | bytearray | memoryview) -> npt.NDArray[Any]:
        image = open_image(data, self._mode, self._max_pixels)
        if self._resize is not None:
            image = self._resize(self._checked(image))
        if self._crop is not None:
            image = self._crop(image)
        return self._normalize(image) if self._pixels is None else rows_of(image)

    def _checked(self, image: Image.Image) -> Image.Image:
        """Refuses an image of extreme proportions, whose longer edge would grow without measure."""
        width, height = (self._resize or Resize(1)).target(*image.size)
        if width * height > (self._max_pixels or MAX_PIXELS):
            raise InvalidRequest(f"an image of {image.width} x {image.height} pixels would be resized to {width} x {height}")
        return image

    def _from_list(self, value: Any) -> npt.NDArray[Any]:
        if isinstance(value, str):
            return self._from_image(from_base64(value))
        shape = "[channels, height, width]"
        if not isinstance(value, list):
            kind = type(value).__name__
            raise InvalidRequest(f"expected an image, base64 text or a JSON list of {shape}, found a JSON {kind}")
        try:
            array = np.array(value)
        except ValueError:
            raise InvalidRequest(f"the JSON list is ragged; expected numbers of shape {shape}") from None
        if array.dtype.kind not in "iuf" or array.ndim != 3:
            raise InvalidRequest(f"expected numbers of shape {shape}, found {array.dtype} of shape {list(array.shape)}")
        return array
