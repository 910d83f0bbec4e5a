"""`object_detector`: an image in, boxes with class and score out, as TorchServe's handler of that name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.model_config import ModelConfig
from ..core.request import Response
from .base import bad_output
from .image_classifier import to_json
from .image_input import ImageCodec
from .labels import Labels
from .options import Options


class ObjectDetector(ImageCodec):
    """Answers [{label: [x1, y1, x2, y2], "score": s}, …] with s of at least the parameter `threshold` ("0.5").

    The model has the outputs `boxes` [n, 4], `labels` [n] and `scores` [n]. The image keeps its size and is scaled to 0..1,
    unless parameters say otherwise.
    """

    resize = ()
    crop = ()
    mean = (0.0,)
    std = (1.0,)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._threshold = Options(config).number("threshold", 0.5)
        self._labels = Labels.of(config)

    def encode(self, response: Response) -> Response:
        boxes, labels, scores = (self._output(response, name) for name in ("boxes", "labels", "scores"))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not labels.shape == scores.shape == (len(boxes),):
            shapes = f"{list(boxes.shape)}, {list(labels.shape)}, {list(scores.shape)}"
            raise bad_output(self.config, f"expected boxes, labels and scores of shape [n, 4], [n] and [n], found {shapes}")
        found = [self._box(*row) for row in zip(boxes, labels, scores, strict=True) if row[2] >= self._threshold]
        response.body = to_json(found)
        return response

    def _box(self, box: npt.NDArray[Any], label: Any, score: Any) -> dict[str, Any]:
        return {self._labels[int(label)]: [float(edge) for edge in box], "score": float(score)}

    def _output(self, response: Response, name: str) -> npt.NDArray[Any]:
        tensor = next((tensor for tensor in response.tensors if tensor.name == name), None)
        if tensor is None or tensor.datatype in ("BYTES", "BF16"):
            names = ", ".join(f"{found.name} ({found.datatype})" for found in response.tensors) or "none"
            raise bad_output(self.config, f"expected numbers in outputs boxes, labels and scores, found {names}")
        array = tensor.numpy()
        return array[0] if self.config.batches and array.ndim and array.shape[0] == 1 else np.asarray(array)
