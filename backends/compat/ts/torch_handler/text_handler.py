"""`TextHandler`: the vocabulary and the steps from text to words, for all handlers of text."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from jitney.backends.codecs import text

from .base_handler import BaseHandler


class TextHandler(BaseHandler):
    """Loads `source_vocab.pt` (the manifest's sourceVocab, if it names another file) into `source_vocab`."""

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.source_vocab = load_vocabulary(self.get_source_vocab_path(context))

    def get_source_vocab_path(self, ctx: Any) -> str:
        name = (ctx.manifest or {}).get("model", {}).get("sourceVocab") or "source_vocab.pt"
        path = Path(ctx.system_properties["model_dir"]) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: a text handler needs its vocabulary")
        return str(path)

    def _remove_html_tags(self, line: str) -> str:
        return text.remove_html_tags(line)

    def _expand_contractions(self, line: str) -> str:
        return text.expand_contractions(line)

    def _remove_accented_characters(self, line: str) -> str:
        return text.remove_accented_characters(line)

    def _remove_punctuation(self, line: str) -> str:
        return text.remove_punctuation(line)

    def _tokenize(self, line: str) -> list[str]:
        return text.tokenize(line)

    def get_word_token(self, input_tokens: Any) -> list[str]:
        """Words without the mark that subword tokenizers put before them."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: Any) -> Any:
        """One number for each word: the sum over the embedding, scaled to norm 1."""
        summed = attributions.sum(dim=-1).squeeze(0)
        return summed / torch.norm(summed)


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
