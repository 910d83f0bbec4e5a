"""`ImageClassifier`: the most probable classes of an image."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ..handler_utils.timer import timed
from ..utils.util import map_class_to_label
from .transforms import imagenet
from .vision_handler import VisionHandler


class ImageClassifier(VisionHandler):
    """Answers {label: probability} of the `topk` best classes, best first."""

    topk = 5
    image_processing = imagenet()

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        probabilities = functional.softmax(data, dim=1)
        best, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(best.tolist(), self.mapping, classes.tolist())
