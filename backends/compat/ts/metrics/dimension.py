"""A metric's dimension: a name and a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Dimension:
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"
