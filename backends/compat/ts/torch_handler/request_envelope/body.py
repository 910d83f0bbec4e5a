"""Envelope `body`: the handler gets the values instead of dicts."""

from __future__ import annotations

from typing import Any

from .base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    def parse_input(self, data: Any) -> Any:
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, data: Any) -> Any:
        return data
