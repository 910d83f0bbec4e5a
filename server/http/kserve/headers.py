"""Headers that models see as parameters (tritonserver's `--http-header-forward-pattern`)."""

from __future__ import annotations

import re

import falcon

from ....backends.base import Parameter
from .parameters import custom


class ForwardedHeaders:
    """Headers whose names the pattern matches somewhere, without regard to case; "" matches none (Triton)."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.IGNORECASE) if pattern else None

    def of(self, req: falcon.Request) -> dict[str, Parameter]:
        """The matching headers as string parameters, named as the client spelled them; InvalidRequest for reserved names."""
        if self._pattern is None:
            return {}
        sent: list[tuple[str, str]] = req.env.get("jitney.headers") or [(n.title(), v) for n, v in req.headers.items()]
        return {name: custom(name, value) for name, value in sent if self._pattern.search(name)}
