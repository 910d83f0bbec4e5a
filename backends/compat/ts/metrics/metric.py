"""One measured value, as older handlers make it."""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from .caching_metric import CachingMetric
from .dimension import Dimension
from .metric_type_enum import MetricTypes
from .unit import Units

__all__ = ["CachingMetric", "Metric", "MetricTypes", "MetricUnit", "Units"]

MetricUnit = Units()


class Metric:
    """A counter's value with name, unit and dimensions. `request_id` may join several ids with commas.

    As in TorchServe, making one sends nothing: `ts.service.emit_metrics` sends `value`, `update` and `reset` send at once.
    """

    metric_type = MetricTypes.COUNTER

    def __init__(
        self,
        name: str,
        value: float,
        unit: str | None,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.dimensions = list(dimensions)
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.dimension_values = [dimension.value for dimension in dimensions]
        self._metric = CachingMetric(name, unit, self.dimension_names, self.metric_type)
        self.name, self.unit = name, self._metric.unit
        self.value = value
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        self._metric.add_or_update(value, self.dimension_values, self.request_id or "")

    def reset(self) -> None:
        self.update(0)

    def emit(self) -> None:
        self.update(self.value)

    def to_dict(self) -> OrderedDict[str, Any]:
        return OrderedDict(
            MetricName=self.name,
            Value=self.value,
            Unit=self.unit,
            Dimensions=self.dimensions,
            Timestamp=int(time.time()),
            HostName=socket.gethostname(),
            RequestId=self.request_id,
        )

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        ids = f",{self.request_id}" if self.request_id else ""
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:{socket.gethostname()},{int(time.time())}{ids}"
