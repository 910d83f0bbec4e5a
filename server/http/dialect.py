"""Which dialect a path speaks, and a refusal in it, for what happens before a request has reached a route."""

from __future__ import annotations


def is_kserve(path: str) -> bool:
    """Whether a path belongs to the KServe v2 dialect, which has its own error bodies and does not touch its paths."""
    return path == "/v2" or path.startswith("/v2/")
