"""Headers that models see as parameters (tritonserver's `--http-header-forward-pattern`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ....core.request import Parameter
from .parameters import custom


class ForwardedHeaders:
    """Headers whose names the pattern matches somewhere, without regard to case; "" matches none (Triton)."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.IGNORECASE) if pattern else None

    @property
    def active(self) -> bool:
        """Whether there is a pattern."""
        return self._pattern is not None

    def of(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Parameter]:
        """Those of a request's headers that match, as string parameters, named as the client spelled them.

        InvalidRequest for reserved names.
        """
        if self._pattern is None:
            return {}
        return {name: custom(name, value) for name, value in pairs if self._pattern.search(name)}
