"""A metric's dimension: a name and a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Dimension:
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, Any]:
        return {"Name": self.name, "Value": self.value}
