"""`TextClassifier`: the probability of each class of a text, for models of the EmbeddingBag kind: model(words, offsets)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from ..handler_utils.text_utils import ngrams_iterator
from ..handler_utils.timer import timed
from ..utils.util import map_class_to_label
from .text_handler import TextHandler

__all__ = ["TextClassifier", "TextHandler", "map_class_to_label", "ngrams_iterator"]

logger = logging.getLogger(__name__)


class TextClassifier(TextHandler):
    """Unlike TorchServe's, it answers every request of a batch: their words follow one another, at their offsets."""

    ngrams = 2
    __offsets: Sequence[int] = (0,)

    @timed
    def preprocess(self, data: Any) -> Any:
        """(indices of all requests' words and pairs of words, words of the first request)."""
        lines = [self.__words(row.get("data") or row.get("body")) for row in data]
        indices = [self.__indices(words) for words in lines]
        self.__offsets = [sum(map(len, indices[:at])) for at in range(len(indices))]
        flat = [index for line in indices for index in line]
        return torch.as_tensor(flat, dtype=torch.int64, device=self.device), lines[0] if lines else []

    def __words(self, text: Any) -> list[str]:
        if isinstance(text, bytes | bytearray):
            text = text.decode("utf-8")
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        return self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))

    def __indices(self, words: list[str]) -> list[int]:
        unknown = self.source_vocab.get("<unk>", 0)
        return [self.source_vocab.get(gram, unknown) for gram in ngrams_iterator(words, self.ngrams)]

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        indices, _ = data
        return super().inference(indices, torch.as_tensor(self.__offsets, device=self.device))

    @timed
    def postprocess(self, data: Any) -> Any:
        return map_class_to_label(functional.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int = 0) -> Any:
        """[{"importances": …, "words": […]}] by layer integrated gradients of `model.embedding`, against the word 0.

        Importances have the shape of the embedding's output, as in TorchServe: an EmbeddingBag, which sums up a text's words,
        gives one row with a number for each dimension; an Embedding gives such a row for each word and pair of words.
        """
        if self.lig is None:
            raise RuntimeError("explanations of text need a model whose words go through its layer 'embedding'")
        indices, words = tensor_data
        attributions = self.lig.attribute(
            indices,
            torch.zeros_like(indices),
            additional_forward_args=torch.as_tensor([0], device=self.device),
            return_convergence_delta=False,
            target=target,
        )
        return [{"importances": self.summarize_attributions(attributions).tolist(), "words": self.get_word_token(words)}]
