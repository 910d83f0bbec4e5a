"""Text as TorchServe's text classifier sees it: cleaned, split into words, and pairs of words."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence

#: HTML's tags and character references, which TorchServe's text handlers drop.
TAGS = re.compile("<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = re.compile(r"\S+")

#: Contractions that end in one of these are opened by rule; the irregular ones stand below.
_ENDINGS = (("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'m", " am"), ("'d", " would"))
_IRREGULAR = {
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "'cause": "because",
    "he's": "he is",
    "here's": "here is",
    "how'd": "how did",
    "how'd'y": "how do you",
    "how's": "how is",
    "it's": "it is",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "sha'n't": "shall not",
    "shan't": "shall not",
    "she's": "she is",
    "so's": "so as",
    "that's": "that is",
    "there's": "there is",
    "what's": "what is",
    "when's": "when is",
    "where'd": "where did",
    "where's": "where is",
    "who's": "who is",
    "why's": "why is",
    "won't": "will not",
    "y'all": "you all",
}
_CONTRACTED = re.compile(r"[a-z]*'[a-z']+", re.IGNORECASE)


def remove_html_tags(text: str) -> str:
    return TAGS.sub("", text)


def expand_contractions(text: str) -> str:
    """Opens contractions: "Won't" to "Will not", "they've" to "they have"; a possessive 's stays."""
    return _CONTRACTED.sub(lambda match: _with_case(match[0]), text.replace("’", "'"))


def _with_case(word: str) -> str:
    """The expanded word, with a capital where the word has one; what is no contraction stays."""
    lower = word.lower()
    expanded = _expanded(lower)
    if expanded == lower:
        return word
    return expanded[0].upper() + expanded[1:] if word[0].isupper() else expanded


def _expanded(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, words in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return _expanded(word.removesuffix(ending)) + words
    return word


def remove_accented_characters(text: str) -> str:
    """Letters without their accents; what has no ASCII form is dropped."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def remove_punctuation(text: str) -> str:
    return text.translate(_PUNCTUATION)


def tokenize(text: str) -> list[str]:
    """Words between white space."""
    return _WORDS.findall(text)


def words_of(text: str) -> list[str]:
    """All steps in TorchServe's order."""
    text = expand_contractions(remove_html_tags(text).lower())
    return tokenize(remove_punctuation(remove_accented_characters(text)))


def ngrams(words: Sequence[str], longest: int) -> Iterator[str]:
    """The words, then the pairs, … up to `longest` words joined by a space."""
    yield from words
    for length in range(2, longest + 1):
        for at in range(len(words) - length + 1):
            yield " ".join(words[at : at + length])
