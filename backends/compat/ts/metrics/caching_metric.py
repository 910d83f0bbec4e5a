"""A declared metric that is updated again and again."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .dimension import Dimension
from .metric import Metric
from .metric_type_enum import MetricTypes
from .units import unit_name

logger = logging.getLogger(__name__)


class CachingMetric:
    """Name, unit, names of dimensions and type; `add_or_update` sends a value to the server."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = metric_name
        self.unit = unit_name(unit)
        self.dimension_names = list(dimension_names)
        self.metric_type = metric_type

    def add_or_update(self, value: float, dimension_values: Sequence[str] = (), request_id: str = "") -> None:
        """Counts `value` up, sets the gauge to it or observes it. A negative count is logged and dropped, as in TorchServe."""
        if len(dimension_values) != len(self.dimension_names):
            raise ValueError(
                f"metric '{self.metric_name}' has the dimensions {self.dimension_names}, got the values {list(dimension_values)}"
            )
        if self.metric_type is MetricTypes.COUNTER and value < 0:
            logger.error("metric '%s' is a counter and cannot be updated by %s", self.metric_name, value)
            return
        dimensions = [Dimension(name, text) for name, text in zip(self.dimension_names, dimension_values, strict=True)]
        Metric(self.metric_name, value, self.unit, dimensions, request_id or None, metric_type=self.metric_type).emit()

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()) -> None:
        """`add_or_update` for a call site that holds the dimensions themselves."""
        self.add_or_update(value, [str(dimension.value) for dimension in dimensions], request_id)
