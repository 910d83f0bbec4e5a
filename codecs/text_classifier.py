"""`text_classifier`: text in, the probability of each class out, as TorchServe's handler of that name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InvalidConfig, InvalidRequest
from ..core.lines import read_lines
from ..core.model_config import ModelConfig, TensorSpec
from ..core.request import Part, Response
from ..core.tensor import NUMPY_DTYPES, Tensor
from .base import Codec, bad_output, load_json, main_part, refuse_explanation
from .image_classifier import floats, single_output, softmax, to_json
from .labels import Labels
from .options import Options
from .text import ngrams, words_of

UNKNOWN = "<unk>"


class TextClassifier(Codec):
    """The first input takes the indices of words and pairs of words, a second one (of EmbeddingBag models) the offset 0.

    The vocabulary is the file of the parameter `vocabulary` ("source_vocab.json": {word: index}; or a .txt with one word a
    line) in the version's or the model's folder; words that it lacks get the index of <unk>, or 0. (TorchServe's
    source_vocab.pt is a pickle of torchtext, which the server does not open.) Parameter `ngrams` ("2").
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = Options(config)
        self._inputs = config.inputs or (TensorSpec("INPUT__0", "INT64", (-1,)),)
        if len(self._inputs) > 2 or any(spec.datatype not in ("INT32", "INT64") for spec in self._inputs):
            raise InvalidConfig(
                f"model '{config.name}': codec 'text_classifier' needs INT32 or INT64 inputs: words, offsets?"
            )
        if len(self._inputs) == 2 and config.batches:
            raise InvalidConfig(f"model '{config.name}': words with offsets have no batch axis; max_batch_size must be 0")
        self._ngrams = options.whole("ngrams", 2)
        self._vocabulary = read_vocabulary(config)
        self._unknown = self._vocabulary.get(UNKNOWN, 0)
        self._labels = Labels.of(config)

    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        refuse_explanation(self.config, headers)
        words = words_of(_text(main_part(parts)))
        if not words:
            raise InvalidRequest("the text has no words")
        found = [self._vocabulary.get(gram, self._unknown) for gram in ngrams(words, self._ngrams)]
        return [self._tensor(spec, values) for spec, values in zip(self._inputs, (found, [0]), strict=False)]

    def _tensor(self, spec: TensorSpec, values: list[int]) -> Tensor:
        array = np.array(values, NUMPY_DTYPES[spec.datatype])
        return Tensor.from_numpy(spec.name, array[None] if self.config.batches else array)

    def encode(self, response: Response) -> Response:
        scores = floats(single_output(self.config, response), self.config)
        if scores.ndim == 2 and scores.shape[0] == 1:
            scores = scores[0]
        if scores.ndim != 1 or not scores.size:
            raise bad_output(self.config, f"expected shape [classes] or [1, classes], found {list(scores.shape)}")
        response.body = to_json({self._labels[index]: float(value) for index, value in enumerate(softmax(scores))})
        return response


def _text(part: Part) -> str:
    if part.content_type == "application/json":
        value = load_json(part.data)
        if not isinstance(value, str):
            raise InvalidRequest(f"expected text, found a JSON {type(value).__name__}")
        return value
    try:
        return bytes(part.data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the text is not UTF-8: {error}") from None


def read_vocabulary(config: ModelConfig) -> dict[str, int]:
    """Raises `InvalidConfig` naming the file."""
    name = config.parameters.get("vocabulary", "source_vocab.json")
    folders = [folder for folder in (config.version_directory, config.directory) if folder]
    path = next((path for folder in folders if (path := Path(folder) / name).is_file()), None)
    if path is None:
        raise InvalidConfig(f"model '{config.name}': no vocabulary '{name}' in {' or '.join(folders) or 'its folder'}")
    if path.suffix != ".txt":
        return _checked(path, path.read_bytes())
    try:
        return {word: index for index, word in enumerate(read_lines(path))}
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path}: not UTF-8: {error}") from None


def _checked(path: Path, raw: bytes) -> dict[str, int]:
    try:
        document: Any = json.loads(raw)
    except ValueError as error:
        raise InvalidConfig(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict) or any(type(index) is not int or index < 0 for index in document.values()):
        raise InvalidConfig(f"{path}: expected an object from word to index")
    return document
