"""What is told of an exception: text that can be sent, whatever the model's code raised.

An exception's `__str__` is the model's own: it may raise, give text that is not UTF-8, or more than a message holds. None of
that may end the worker or hide the error.
"""

from __future__ import annotations

import traceback

#: Characters of an exception's text, and of its traceback, that are told.
LONGEST = 1 << 20


def text_of(error: BaseException) -> str:
    """What an exception says, as text that can be sent."""
    try:
        text = str(error)
    except BaseException as problem:  # noqa: BLE001 - the model's code, which may call sys.exit()
        return f"(its text cannot be had: __str__ raised {type(problem).__name__})"
    return sendable(text)


def trace_of(error: BaseException) -> str:
    """Its traceback for the log, those of the exceptions behind it included."""
    return sendable("".join(traceback.format_exception(error)))


def sendable(text: str) -> str:
    """`text`, with escapes for what UTF-8 does not have, and without its middle where it is too long."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]} (… {len(text) - 2 * half} characters left out …) {text[-half:]}"
    return text.encode(errors="backslashreplace").decode()
