"""Which requests may run twice, by method and path."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote

#: Routes that run a model once for one answer. `generate` has a stream, which cannot begin again.
_INFERENCES = re.compile(
    r"/v2/models/(?P<v2>[^/]+)(?:/versions/[^/]+)?/infer"
    r"|/v1/models/(?P<v1>[^/:]+)(?:/versions/[^/:]+)?:(?:predict|explain)"
    r"|/predictions/(?P<ts>[^/]+)(?:/[^/]+)?"
    r"|/models/(?P<sagemaker>[^/]+)/invoke"
)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def model_of(path: str) -> str | None:
    """The model that a request for this path (percent-encoded, without a query) runs; None where it runs none, or not by name."""
    match = _INFERENCES.fullmatch(path.rstrip("/"))
    return unquote(next(filter(None, match.groups()))) if match else None


def repeatable(method: str, path: str, models: Collection[str]) -> bool:
    """Whether the request may run again after it may have run. `models` are those whose requests may."""
    model = model_of(path)
    if model is not None:
        return model in models
    return (method in _SAFE and path.startswith(("/ping", "/v2", "/v1/models", "/metrics"))) or method == "OPTIONS"
