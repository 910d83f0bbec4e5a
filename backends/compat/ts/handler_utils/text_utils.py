"""Words of a text, and runs of words, as torchtext (discontinued) gave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jitney.codecs.text import ngrams as runs_of_words

#: Marks that are words of their own; those that are dropped (None) or part words.
_BASIC_ENGLISH = str.maketrans({**{mark: f" {mark} " for mark in "'.,()!?"}, '"': None, ";": " ", ":": " "})


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """The words, then the pairs, … up to runs of `ngrams` words joined by a space."""
    return runs_of_words(token_list, ngrams)


def get_tokenizer(tokenizer: str | Callable[[str], list[str]] | None, language: str = "en") -> Callable[[str], list[str]]:
    """What makes words of a line: split at white space (None), "basic_english", or the function itself."""
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer != "basic_english":
        raise ValueError(f"tokenizer '{tokenizer}' is not known; expected None, 'basic_english' or a function")
    if language != "en":
        raise ValueError(f"'basic_english' is for the language 'en', not '{language}'")
    return _basic_english


def _basic_english(line: str) -> list[str]:
    """Lower case; marks apart from words, without quotes, colons and semicolons."""
    return line.lower().replace("<br />", " ").translate(_BASIC_ENGLISH).split()
