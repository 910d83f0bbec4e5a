"""`image_segmenter`: an image in, the class of each pixel out, as TorchServe's handler of that name."""

from __future__ import annotations

import numpy as np

from ..core.request import Response
from .base import bad_output
from .image_classifier import floats, single_output, softmax, to_json
from .image_input import ImageCodec


class ImageSegmenter(ImageCodec):
    """Answers [height][width][class, probability]. The output is [classes, height, width] scores for each pixel."""

    def encode(self, response: Response) -> Response:
        scores = floats(single_output(self.config, response), self.config)
        if self.config.batches and scores.ndim == 4 and scores.shape[0] == 1:
            scores = scores[0]
        if scores.ndim != 3 or not scores.size:
            raise bad_output(self.config, f"expected shape [classes, height, width], found {list(scores.shape)}")
        probabilities = softmax(scores, axis=0)
        best = probabilities.argmax(axis=0)
        strength = np.take_along_axis(probabilities, best[None], axis=0)[0]
        response.body = to_json(np.stack((best.astype(np.float32), strength), axis=2).tolist())
        return response
