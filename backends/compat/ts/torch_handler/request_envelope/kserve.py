"""Envelope `kserve`: KServe v1, {"instances": […]} in, {"predictions": […]} or {"explanations": […]} out."""

from __future__ import annotations

import logging
from typing import Any

from .base import BaseEnvelope
from .single import SingleEnvelope

__all__ = ["BaseEnvelope", "KServeEnvelope"]

logger = logging.getLogger(__name__)


class KServeEnvelope(SingleEnvelope):
    def parse_input(self, data: Any) -> Any:
        instances = self.body(data).get("instances")
        if not isinstance(instances, list):
            raise ValueError('expected a list "instances"')
        logger.debug("the handler gets %d instances", len(instances))
        return instances

    def format_output(self, data: Any) -> Any:
        return [{"explanations" if self._is_explain() else "predictions": data}]
