"""Which requests take so little time before their model gets them that the thread of all connections serves them itself.

Handing a request to another thread costs more than reading a small one. What decodes images, parses long JSON, inflates or may
block goes to a thread of the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import JitneyError

if TYPE_CHECKING:
    from ..dataplane import DataPlane

#: Bytes of a body that are handed on as they are, and of one that is parsed as JSON (some 100 µs).
MAX_OPAQUE = 1 << 20
MAX_PARSED = 32 << 10
#: Paths of the application that are answered at once, also when every thread of the pool is taken.
ALIVE = frozenset({"/ping", "/v2/health/live", "/v2/health/ready"})


def predicts_inline(dataplane: DataPlane, model: str, version: str | None, nbytes: int) -> bool:
    """Whether a prediction with a body of so many bytes is one of them."""
    if nbytes > MAX_OPAQUE:
        return False
    try:
        config = dataplane.config(model, version)
    except JitneyError:
        return True  # the answer is an error
    return config.backend == "handler" or (config.codec == "json" and nbytes <= MAX_PARSED)
