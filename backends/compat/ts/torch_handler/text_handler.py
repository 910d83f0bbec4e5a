"""`TextHandler`: the vocabulary and the steps from text to words, for all handlers of text."""

from __future__ import annotations

import logging
import pickle
import re
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from jitney.codecs import text

from ..handler_utils.text_utils import get_tokenizer
from ..utils.util import CLEANUP_REGEX
from .base_handler import BaseHandler
from .contractions import CONTRACTION_MAP
from .insights import layer_integrated_gradients

__all__ = [
    "CLEANUP_REGEX",
    "CONTRACTIONS_PATTERN",
    "CONTRACTION_MAP",
    "BaseHandler",
    "TextHandler",
    "get_tokenizer",
    "load_vocabulary",
]

logger = logging.getLogger(__name__)
#: Longest first, so that "can't've" is not taken for "can't".
CONTRACTIONS_PATTERN = re.compile("|".join(sorted(map(re.escape, CONTRACTION_MAP), key=len, reverse=True)), re.IGNORECASE)


class TextHandler(BaseHandler, ABC):
    """Loads `source_vocab.pt` (the manifest's sourceVocab, if it names another file) into `source_vocab`.

    `lig` attributes an answer to the model's layer `embedding`; None where the model has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer: Any = get_tokenizer("basic_english")
        self.input_text: Any = None
        self.lig: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.source_vocab = load_vocabulary(self.get_source_vocab_path(context))
        embedding = getattr(self.model, "embedding", None)
        if embedding is not None:
            self.lig = layer_integrated_gradients(self.model, embedding)

    def get_source_vocab_path(self, ctx: Any) -> str:
        name = (ctx.manifest or {}).get("model", {}).get("sourceVocab") or "source_vocab.pt"
        path = Path(ctx.system_properties["model_dir"]) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: a text handler needs its vocabulary")
        return str(path)

    def _remove_html_tags(self, line: str) -> str:
        return text.remove_html_tags(line)

    def _expand_contractions(self, line: str) -> str:
        return text.expand_contractions(line).replace("'", "")

    def _remove_accented_characters(self, line: str) -> str:
        return text.remove_accented_characters(line)

    def _remove_punctuation(self, line: str) -> str:
        return text.remove_punctuation(line)

    def _remove_puncutation(self, *args: Any, **kwargs: Any) -> str:
        """The name that TorchServe's first versions misspelt."""
        return self._remove_punctuation(*args, **kwargs)

    def _tokenize(self, line: str) -> list[str]:
        words: list[str] = self.tokenizer(line)
        return words

    def get_word_token(self, input_tokens: Any) -> list[str]:
        """Words without the mark that subword tokenizers put before them."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: Any) -> Any:
        """Attributions as shares, scaled by the norm of their sums. TorchServe names no dimension for the softmax; this is
        the one that torch takes then."""
        shares = functional.softmax(attributions, dim=0 if attributions.dim() in (0, 1, 3) else 1)
        return shares / torch.norm(shares.sum(dim=-1))


def load_vocabulary(path: str) -> Any:
    """{word: index} or a list of words, as torch.save or JSON (.json) wrote them."""
    if path.endswith(".json"):
        import json

        loaded: Any = json.loads(Path(path).read_bytes())
    else:
        try:
            loaded = torch.load(path, weights_only=True)
        except pickle.UnpicklingError as error:
            raise RuntimeError(
                f"{path} holds more than a dict or list (torchtext, which wrote such files, is discontinued); write it anew "
                f"with torch.save(vocab.get_stoi(), path), or load it in a handler of your own: {error}"
            ) from error
    if isinstance(loaded, list):
        return {word: index for index, word in enumerate(loaded)}
    if not isinstance(loaded, Mapping):
        raise TypeError(f"{path}: expected a dict from word to index, found {type(loaded).__name__}")
    return loaded
