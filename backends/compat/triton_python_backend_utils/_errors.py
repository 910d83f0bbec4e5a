"""The two ways in which a Python model reports trouble."""

from __future__ import annotations

import operator
from typing import Any


class TritonModelException(Exception):
    """An ordinary exception: raised out of `execute` it fails every request of the batch."""


class TritonError:
    """An error of one request, put into its InferenceResponse; `code` is one of the class's constants."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: Any, code: Any = INTERNAL) -> None:
        self._message, self._code = _readable(message), _known_code(code)

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


NAMES = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")
CODE_NAMES = dict(enumerate(NAMES))


def _readable(message: Any) -> str:
    """Any object as text that can be sent; bytes are UTF-8, what is none is replaced: an error must get through."""
    if isinstance(message, bytes | bytearray):
        return message.decode(errors="replace")
    return str(message).encode(errors="replace").decode()


def _known_code(code: Any) -> int:
    try:
        number = operator.index(code)
    except TypeError:
        number = -1
    if number not in CODE_NAMES:
        raise ValueError(f"unknown TritonError code {code!r}; expected one of TritonError.{', TritonError.'.join(NAMES)}")
    return number
