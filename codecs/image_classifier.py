"""`image_classifier`: an image in, the most probable classes out, as TorchServe's handler of that name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.model_config import ModelConfig
from ..core.request import Response
from ..core.tensor import Tensor
from .base import bad_output
from .image_input import ImageCodec
from .labels import Labels
from .options import Options


class ImageClassifier(ImageCodec):
    """Answers `{label: probability, …}`, best first. Parameters: those of `ImageCodec`, `topk` ("5"), `softmax` ("true")."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = Options(config)
        self._topk = options.whole("topk", 5)
        self._softmax = options.flag("softmax", True)
        self._labels = Labels.of(config)

    def encode(self, response: Response) -> Response:
        scores = floats(single_output(self.config, response), self.config)
        if scores.ndim != 1 + self.config.batches or not scores.size:
            wanted = "[1, classes]" if self.config.batches else "[classes]"
            raise bad_output(self.config, f"expected shape {wanted}, found {list(scores.shape)}")
        rows = [self._ranking(row) for row in scores.reshape(-1, scores.shape[-1])]
        response.body = to_json(rows[0] if len(rows) == 1 else rows)
        return response

    def _ranking(self, row: npt.NDArray[np.float32]) -> dict[str, float]:
        probabilities = softmax(row) if self._softmax else row
        best = np.argsort(-probabilities, kind="stable")[: self._topk]
        return {self._labels[int(index)]: float(probabilities[index]) for index in best}


def single_output(config: ModelConfig, response: Response) -> Tensor:
    """The model's first declared output, or its only one."""
    if config.outputs:
        found = [tensor for tensor in response.tensors if tensor.name == config.outputs[0].name]
    else:
        found = response.tensors[:1]
    if not found:
        raise bad_output(config, f"no tensor named '{config.outputs[0].name}'" if config.outputs else "no tensor at all")
    return found[0]


def floats(tensor: Tensor, config: ModelConfig) -> npt.NDArray[np.float32]:
    """A numeric output as float32, the precision in which TorchServe's handlers compute."""
    if tensor.datatype in ("BYTES", "BOOL"):
        raise bad_output(config, f"output '{tensor.name}' is {tensor.datatype}, expected numbers")
    array = tensor.numpy()
    if tensor.datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def softmax(scores: npt.NDArray[np.float32], axis: int = -1) -> npt.NDArray[np.float32]:
    """Numerically stable softmax; NaN and infinities propagate as in torch, without warnings."""
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
        result: npt.NDArray[np.float32] = powers / powers.sum(axis=axis, keepdims=True)
    return result


def to_json(value: Any) -> bytes:
    """JSON as TorchServe writes handlers' results: two spaces of indentation, ASCII, NaN as it is, no final newline."""
    return json.dumps(value, indent=2).encode()
