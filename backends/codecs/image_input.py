"""The input half of the image codecs: a request's image to one float tensor [channels, height, width]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...server.errors import InvalidConfig, InvalidRequest
from ...server.repository.config import ModelConfig
from ..base import Part
from ..tensor import NUMPY_DTYPES, Tensor
from .base import Codec, load_json, main_part, refuse_explanation
from .image import MAX_PIXELS, allow_any_size, from_base64, open_image
from .options import Options, only_input
from .transforms import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, Resize


class ImageCodec(Codec):
    """Decodes as TorchServe's VisionHandler does, except that every image is converted to `image_mode` first.

    The part may hold image bytes, base64 text (content type text/*) or a JSON list (application/json), which is the tensor
    itself. Parameters: `image_mode` RGB or L, `resize`, `crop` ("256", or "height,width", "0" = off), `mean`, `std` (one
    number or one for each channel), `max_image_pixels`.
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
        self._normalize = self._normalization(options)
        self._check_dims((crop * 2)[:2] if crop else resize if len(resize) == 2 else (-1, -1))
        self._max_pixels: int | None = options.whole("max_image_pixels", MAX_PIXELS) if self._limited() else None

    def _limited(self) -> bool:
        limited = self.config.handler is None or self.config.handler.limit_max_image_pixels
        if not limited:
            allow_any_size()
        return limited

    def _normalization(self, options: Options) -> Normalize:
        counts = (1, 3) if self._mode == "RGB" else (1,)
        grey = self._mode == "L"
        mean = options.numbers("mean", (0.0,) if grey else self.mean, counts)
        std = options.numbers("std", (1.0,) if grey else self.std, counts)
        if 0.0 in std:
            raise options.refuse("std", "numbers other than 0")
        return Normalize(mean, std)

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
        array = self._array(main_part(parts)).astype(NUMPY_DTYPES[self._input.datatype], copy=False)
        return [Tensor.from_numpy(self._input.name, array[None] if self.config.batches else array)]

    def _array(self, part: Part) -> npt.NDArray[Any]:
        if part.content_type == "application/json":
            return self._from_list(load_json(part.data))
        if part.content_type.startswith("text"):
            return self._from_image(from_base64(bytes(part.data).decode("ascii", "replace")))
        return self._from_image(part.data)

    def _from_image(self, data: bytes | bytearray | memoryview) -> npt.NDArray[np.float32]:
        image = open_image(data, self._mode, self._max_pixels)
        if self._resize is not None:
            image = self._resize(self._checked(image))
        if self._crop is not None:
            image = self._crop(image)
        return self._normalize(image)

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
