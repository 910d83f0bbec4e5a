"""Small builders for codec tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jitney.core.model_config import ModelConfig, TensorSpec

Make = Callable[..., ModelConfig]


@pytest.fixture
def classifier_config() -> Make:
    def make(dims: tuple[int, ...] = (3, 224, 224), **changes: Any) -> ModelConfig:
        """Decodes to floats unless `parameters` say otherwise."""
        fields: dict[str, Any] = {
            "name": "net",
            "version": "1",
            "backend": "onnxruntime",
            "max_batch_size": 8,
            "codec": "image_classifier",
            "inputs": (TensorSpec("pixels", "FP32", dims),),
            "outputs": (TensorSpec("scores", "FP32", (-1,)),),
        }
        parameters = {"normalize_on_device": "false"} | changes.pop("parameters", {})
        return ModelConfig(**{**fields, **changes}, parameters=parameters)

    return make


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Encoded images with random content."""

    def make(width: int, height: int, mode: str = "RGB", form: str = "PNG", **options: Any) -> bytes:
        channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
        pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, *channels), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels, mode=None).save(out, form, **options) if mode != "CMYK" else Image.frombytes(
            "CMYK", (width, height), pixels.tobytes()
        ).save(out, form)
        return out.getvalue()

    return make
