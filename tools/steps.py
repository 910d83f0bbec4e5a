"""What a demonstration prints: headings, and promises that hold or end it."""

from __future__ import annotations


class NotAsPromised(RuntimeError):
    """A step's answer is not what the project promises; the text says what was expected."""


def expect(holds: bool, promise: str) -> None:
    print(f"  {'ok' if holds else 'FAILED'}: {promise}", flush=True)
    if not holds:
        raise NotAsPromised(promise)


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)
