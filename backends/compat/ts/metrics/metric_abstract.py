"""What a metric is: name, unit, names of its dimensions, and type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from .metric_type_enum import MetricTypes
from .unit import Units, unit_name

__all__ = ["MetricAbstract", "MetricTypes", "MetricUnit", "Units"]

MetricUnit = Units()


class MetricAbstract(ABC):
    """Subclasses say what happens with a value."""

    def __init__(
        self,
        metric_name: str,
        unit: str | None,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = metric_name
        self.unit = unit_name(unit)
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type

    @abstractmethod
    def add_or_update(self, value: float, dimension_values: Sequence[Any], request_id: str = "") -> None:
        """Takes a value for these dimensions, in the order of `dimension_names`."""
