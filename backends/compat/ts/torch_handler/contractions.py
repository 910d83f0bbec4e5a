"""`CONTRACTION_MAP`: English contractions and the words that they stand for, lower-case but for the pronoun I."""

from __future__ import annotations

from jitney.codecs.text import expand_contractions

_WORDS = """
are ca could did do does had has have is may might must need ought sha should was were wo would
ca could had might must need ought sha should wo would
he how i it she that there they we what when where who you y'all
"""
_NEGATED, _HAVE_NOT_HAVE, _SUBJECTS = (line.split() for line in _WORDS.strip().splitlines())
_ENDINGS = ["'d", "'d've", "'ll", "'ll've", "'re", "'s", "'ve"]
_MORE = """
ain't how'd'y i'm 'cause here's how'd let's ma'am o'clock so's so've to've y'all sha'n't
could've might've must've should've when've where've who've why's why've will've would've
"""


def _contractions() -> list[str]:
    words = [f"{word}n't" for word in _NEGATED] + [f"{word}n't've" for word in _HAVE_NOT_HAVE]
    words += [subject + ending for subject in _SUBJECTS for ending in _ENDINGS] + _MORE.split()
    return words + [word.capitalize() for word in words if word.startswith("i'")]


def _map() -> dict[str, str]:
    """What our own rule expands; it leaves the 's of possessives."""
    expanded = {word: expand_contractions(word) for word in _contractions()}
    return {word: words for word, words in expanded.items() if "'" not in words}


CONTRACTION_MAP = _map()
