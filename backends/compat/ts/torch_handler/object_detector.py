"""`ObjectDetector`: boxes with class and score."""

from __future__ import annotations

from typing import Any

import torch

from ..handler_utils.timer import timed
from ..utils.util import map_class_to_label
from .transforms import Compose, to_rgb, to_tensor
from .vision_handler import VisionHandler, image_of


class ObjectDetector(VisionHandler):
    """For models that answer a list of {"boxes", "labels", "scores"}, as torchvision's detection models do.

    Images of one batch may differ in size: they are then given to the model as a list, which those models take.
    """

    image_processing = Compose([to_rgb, to_tensor])
    threshold = 0.5

    @timed
    def preprocess(self, data: Any) -> Any:
        images = [image_of(self, row).to(self.device) for row in data]
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(data, list):
            with torch.inference_mode():
                return self.model(data, *args, **kwargs)
        return super().inference(data, *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """For each request [{label: [x1, y1, x2, y2], "score": s}, …] with s of at least `threshold`."""
        return [_boxes(self, found) for found in data]


def _boxes(handler: ObjectDetector, found: Any) -> list[dict[str, Any]]:
    kept = found["scores"] >= handler.threshold
    boxes, scores = found["boxes"][kept].tolist(), found["scores"][kept].tolist()
    labels = [[label] for label in found["labels"][kept].tolist()]
    named = map_class_to_label([[box] for box in boxes], handler.mapping, labels)
    return [{**box, "score": score} for box, score in zip(named, scores, strict=True)]
