"""Which requests take so little time before their model gets them that the thread of all connections serves them itself.

Handing a request to another thread costs more than reading a small one. What decodes images, parses long JSON, inflates or may
block goes to a thread of the pool, and so does everything that is not on the list.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from ..errors import JitneyError

if TYPE_CHECKING:
    from ..dataplane import DataPlane

#: Bytes of a body that are handed on as they are, and of one that is parsed as JSON (some 100 µs).
MAX_OPAQUE = 1 << 20
MAX_PARSED = 32 << 10

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_PREDICT = re.compile(r"/predictions/([^/]+)(?:/([^/]+)(?:/.*)?)?")
_ALIVE = ("/ping", "/v2/health/live", "/v2/health/ready")


class Quickness:
    """`front.Quick` for the inference port. `headers` have upper-case names with underscores, as in WSGI."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    def __call__(self, path: str, headers: Container[str], length: int) -> bool:
        if length > MAX_OPAQUE or "CONTENT_ENCODING" in headers:
            return False
        if found := _INFER.fullmatch(path):
            return length <= MAX_PARSED or (
                "INFERENCE_HEADER_CONTENT_LENGTH" in headers and not self._is_handler(found[1], found[2])
            )
        if found := _PREDICT.fullmatch(path):
            return predicts_quickly(self._dataplane, found[1], found[2], length)
        return path in _ALIVE

    def _is_handler(self, model: str, version: str | None) -> bool:
        try:
            return self._dataplane.config(model, version).backend == "handler"
        except JitneyError:
            return False


def predicts_quickly(dataplane: DataPlane, model: str, version: str | None, length: int) -> bool:
    """The same for a prediction whose body has `length` bytes."""
    if length > MAX_OPAQUE:
        return False
    try:
        config = dataplane.config(model, version)
    except JitneyError:
        return True  # the answer is an error
    return config.backend == "handler" or (config.codec == "json" and length <= MAX_PARSED)
