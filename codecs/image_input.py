"""The input half of the image codecs: a request's image to one tensor [channels, height, width].

Its numbers are floats, or bytes where the worker normalises them (`pixels`). Where the worker decodes too (`decode`), the
request's picture goes to it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import InvalidConfig, InvalidRequest
from ..core.model_config import ModelConfig
from ..core.request import Part
from ..core.tensor import NUMPY_DTYPES, Buffer, Tensor, pack_bytes
from .base import Codec, load_json, main_part, refuse_explanation
from .geometry import Geometry
from .image import MAX_PIXELS, allow_any_size, from_base64
from .options import Options, only_input
from .pixels import DECODE, PARAMETER, Pixels, decode_obstacle, obstacle
from .transforms import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, Resize


class ImageCodec(Codec):
    """Decodes as TorchServe's VisionHandler does, except that every image is converted to `image_mode` first.

    The part may hold image bytes, base64 text (content type text/*) or a JSON list (application/json), which is the tensor
    itself. Parameters: `image_mode` RGB or L, `resize`, `crop` ("256", or "height,width", "0" = off), `mean`, `std` (one
    number or one for each channel), `normalize_on_device` (auto), `decode` (host), `max_image_pixels`.
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
        self._geometry = self.geometry_of(config)
        self._pixels = self.pixels_of(config)
        self._normalize = Normalize(*self._moments(options))
        resize, crop = options.size("resize", self.resize), options.size("crop", self.crop)
        self._check_dims((crop * 2)[:2] if crop else resize if len(resize) == 2 else (-1, -1))
        self._as_bytes = self._with_input("UINT8", self._input.dims)
        self._as_sent = self._with_input("BYTES", (1,))

    def _with_input(self, datatype: str, dims: tuple[int, ...]) -> ModelConfig:
        """The configuration with another datatype of the codec's input."""
        given = self.config.inputs
        inputs = [replace(spec, datatype=datatype, dims=dims) if spec is self._input else spec for spec in given]
        return replace(self.config, inputs=tuple(inputs))

    @classmethod
    def geometry_of(cls, config: ModelConfig) -> Geometry:
        """Sizes, mode and limit of pictures. Where the model asks for it, Pillow's limit of this process is switched off."""
        options = Options(config)
        resize, crop = options.size("resize", cls.resize), options.size("crop", cls.crop)
        limited = config.handler is None or config.handler.limit_max_image_pixels
        if not limited:
            allow_any_size()
        return Geometry(
            options.choice("image_mode", "RGB", ("RGB", "L")),
            Resize(resize) if resize else None,
            CenterCrop(crop[0] if len(crop) == 1 else crop) if crop else None,
            options.whole("max_image_pixels", MAX_PIXELS) if limited else None,
        )

    @classmethod
    def pixels_of(cls, config: ModelConfig) -> Pixels | None:
        """What the worker is to normalise, None where this codec does it. `InvalidConfig` where it is asked for in vain.

        It has a geometry where the worker decodes too.
        """
        options, spec = Options(config), only_input(config)
        decodes = options.choice(DECODE, "host", ("host", "device")) == "device"
        wanted = options.choice(PARAMETER, "auto", ("auto", "true", "false"))
        reason = obstacle(config, spec)
        if wanted == "true" and reason:
            raise InvalidConfig(f"model '{config.name}': parameter '{PARAMETER}' cannot be true: {reason}")
        if decodes and (obstacle_of := decode_obstacle(config, reason)):
            raise InvalidConfig(f"model '{config.name}': parameter '{DECODE}' cannot be device: {obstacle_of}")
        if wanted == "false" or reason:
            return None
        return Pixels(spec.name, spec.datatype, *cls._moments(options), cls.geometry_of(config) if decodes else None)

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
        made = (3 if self._geometry.mode == "RGB" else 1, *size)
        dims = self._input.dims
        if len(dims) != 3 or any(a != b and a != -1 and b != -1 for a, b in zip(dims, made, strict=True)):
            raise InvalidConfig(
                f"model '{self.config.name}': codec '{self.config.codec}' makes tensors of {list(made)} (image_mode, resize and "
                f"crop in parameters decide), input '{self._input.name}' has dims {list(dims)}"
            )

    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        refuse_explanation(self.config, headers)
        found = self._found(main_part(parts))
        if not isinstance(found, np.ndarray):
            return [self._sent(found)]
        if found.dtype != np.uint8:  # bytes are for the worker to normalise; a JSON list is the tensor, and never of bytes
            found = found.astype(NUMPY_DTYPES[self._input.datatype], copy=False)
        return [Tensor.from_numpy(self._input.name, found[None] if self.config.batches else found)]

    def expects(self, tensors: Sequence[Tensor]) -> ModelConfig:
        return {"UINT8": self._as_bytes, "BYTES": self._as_sent}.get(tensors[0].datatype, self.config)

    def _sent(self, picture: Buffer) -> Tensor:
        """The picture as it is, for the worker: one string, so that pictures of any length fit into one batch."""
        return Tensor(self._input.name, "BYTES", (1, 1) if self.config.batches else (1,), pack_bytes((picture,)))

    def _found(self, part: Part) -> npt.NDArray[Any] | Buffer:
        """The request's pixels, or its picture where the worker decodes it."""
        if part.content_type == "application/json":
            return self._from_list(load_json(part.data))
        if part.content_type.startswith("text"):
            return self._from_image(from_base64(bytes(part.data).decode("ascii", "replace")))
        return self._from_image(part.data)

    def _from_image(self, data: Buffer) -> npt.NDArray[Any] | Buffer:
        if self._pixels is None:
            return self._normalize(self._geometry.image(data))
        return data if self._pixels.geometry is not None else self._geometry.rows(data)

    def _from_list(self, value: Any) -> npt.NDArray[Any] | Buffer:
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
