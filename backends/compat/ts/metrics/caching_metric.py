"""A declared metric that is updated again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from . import sink
from .dimension import Dimension
from .metric_abstract import MetricAbstract
from .metric_type_enum import MetricTypes

__all__ = ["CachingMetric", "Dimension", "MetricAbstract", "MetricTypes"]

logger = logging.getLogger(__name__)


class CachingMetric(MetricAbstract):
    """`add_or_update` sends a value to the server. As in TorchServe, a value that does not fit is logged and dropped: metrics
    never fail a request."""

    def add_or_update(self, value: float, dimension_values: Sequence[Any] = (), request_id: str = "") -> None:
        """Counts `value` up, sets the gauge to it or observes it."""
        names, values = self.dimension_names, [] if dimension_values is None else list(dimension_values)
        if len(values) != len(names):
            self._refuse(value, f"it has the dimensions {names}, got the values {values}")
            return
        self._send(value, dict(zip(names, values, strict=True)), request_id)

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()) -> None:
        """Sends `value` with these dimensions, which are the metric's own from now on."""
        names = [dimension.name for dimension in dimensions]
        if names != self.dimension_names:
            logger.warning("metric '%s' had the dimensions %s and has %s now", self.metric_name, self.dimension_names, names)
            self.dimension_names = names
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def update_named(self, value: float, dimensions: Mapping[str, Any], request_id: str = "") -> None:
        """Sends `value` with these dimensions, which may be in any order but must be the metric's."""
        if set(dimensions) != set(self.dimension_names):
            self._refuse(value, f"it has the dimensions {self.dimension_names}, got {list(dimensions)}")
            return
        self._send(value, {name: dimensions[name] for name in self.dimension_names}, request_id)

    def emit_metrics(self, request_id: str, value: float, dimension_string: str) -> None:
        """Sends a value whose dimensions are written "name:value,name:value"."""
        pairs = (pair.partition(":") for pair in dimension_string.split(",") if pair)
        self._send(value, {name: text for name, _, text in pairs}, request_id)

    def _send(self, value: float, dimensions: Mapping[str, Any], request_id: str) -> None:
        try:
            number = float(value)
        except (TypeError, ValueError):
            self._refuse(value, "it takes numbers")
            return
        if self.metric_type is MetricTypes.COUNTER and number < 0:
            self._refuse(value, "it is a counter, which takes no negative numbers")
            return
        sink.emit(
            {
                "name": self.metric_name,
                "value": number,
                "unit": self.unit,
                "type": self.metric_type.name,
                "dimensions": {str(name): str(text) for name, text in dimensions.items()},
                "request_ids": str(request_id).split(",") if request_id else [],
                "timestamp": int(time.time()),
            }
        )

    def _refuse(self, value: object, reason: str) -> None:
        logger.error("metric '%s' was not updated by %r: %s", self.metric_name, value, reason)
