"""`VisionHandler`: images from requests, for all handlers of images."""

from __future__ import annotations

import base64
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from ..handler_utils.timer import timed
from .base_handler import BaseHandler
from .insights import integrated_gradients


class VisionHandler(BaseHandler, ABC):
    """Subclasses set `image_processing`, a callable from a PIL image to a tensor."""

    image_processing: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.ig = integrated_gradients(self.model)

    @timed
    def preprocess(self, data: Any) -> Any:
        """One tensor of all requests' images on the model's device.

        A request brings image bytes, base64 text, or a list that is the tensor, as `data` or `body`.
        """
        return torch.stack([image_of(self, row) for row in data]).to(self.device)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int = 0) -> Any:
        """Integrated gradients of class `target` in 15 steps, as nested lists of the input's shape."""
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()


def image_of(handler: VisionHandler, row: Any) -> torch.Tensor:
    """One request's image, processed as the handler's class says."""
    image = row.get("data") or row.get("body")
    if isinstance(image, str):
        image = base64.b64decode(image)
    if isinstance(image, bytes | bytearray):
        tensor: torch.Tensor = handler.image_processing(Image.open(io.BytesIO(image)))
        return tensor
    return torch.tensor(image, dtype=torch.float32)
