"""`Retry-After`: what a client is told that was refused only because of the moment at which it came."""

from __future__ import annotations

from ...core.errors import ModelNotReady, Unavailable

RETRY_AFTER = "retry-after"
#: Seconds. The server cannot know when there is room again; a second is the least that the header can say, and many batches long.
SECONDS = "1"


def is_temporary(error: Exception) -> bool:
    """Whether the same request may well succeed a little later: the queue is full, or the model is not ready."""
    return isinstance(error, Unavailable | ModelNotReady)
