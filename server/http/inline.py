"""Which requests take so little time before their model gets them that the thread of all connections serves them itself.

Handing a request to another thread costs more than reading a small one. What decodes images, parses long JSON, inflates or may
block goes to a thread of the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import JitneyError

if TYPE_CHECKING:
    from ..serving.inference_plane import InferencePlane

#: Bytes of a body that are handed on as they are, and of one that is parsed as JSON (some 100 µs).
MAX_OPAQUE = 1 << 20
MAX_PARSED = 32 << 10
#: Bytes of the tensors of an answer that is compressed (some 30 µs).
MAX_COMPRESSED = 4 << 10
#: Paths of the application that are answered at once, also when every thread of the pool is taken.
ALIVE = frozenset({"/ping", "/v2/health/live", "/v2/health/ready"})


def inline_limit(plane: InferencePlane, model: str, version: str | None) -> int:
    """The largest body, in bytes, with which a prediction is one of them; -1 for none."""
    try:
        config = plane.config(model, version)
    except JitneyError:
        return MAX_OPAQUE  # the answer is an error
    if config.backend == "handler":
        return MAX_OPAQUE
    return MAX_PARSED if config.codec == "json" else -1
