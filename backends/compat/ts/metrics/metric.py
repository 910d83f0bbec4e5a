"""One measured value."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from . import sink
from .dimension import Dimension
from .metric_type_enum import MetricTypes
from .units import unit_name


class Metric:
    """A value with name, unit and dimensions. `request_id` may join several ids with commas."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.name = name
        self.value = float(value)
        self.unit = unit_name(unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method
        self.metric_type = metric_type

    def update(self, value: float) -> None:
        """Adds to a counter (`metric_method` "counter"), replaces the value otherwise."""
        self.value = self.value + value if self.metric_method == "counter" else float(value)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "type": self.metric_type.name,
            "dimensions": {dimension.name: str(dimension.value) for dimension in self.dimensions},
            "request_ids": self.request_id.split(",") if self.request_id else [],
            "timestamp": int(time.time()),
        }

    def emit(self) -> None:
        sink.emit(self.to_dict())

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}"
