"""`ImageSegmenter`: the class of every pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ..handler_utils.timer import timed
from .transforms import imagenet
from .vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """For models that answer {"out": [N, classes, height, width]}."""

    image_processing = imagenet()

    @timed
    def postprocess(self, data: Any) -> Any:
        """For each request [height][width][class, probability] of the most probable class."""
        probabilities, classes = torch.max(functional.softmax(data["out"], dim=1), dim=1)
        return torch.stack((classes.to(probabilities.dtype), probabilities), dim=3).tolist()
