"""The header that carries an error's reason where the text, which scripts compare with the original's, has no place for it."""

from __future__ import annotations

REASON = "x-jitney-reason"
MAX_REASON = 1000


def in_one_line(reason: str) -> str:
    """What a header can carry of a reason."""
    return " ".join(reason.split())[:MAX_REASON].encode("latin-1", "replace").decode("latin-1")
