"""The metrics of a model as handlers before TorchServe 0.7 kept them: in a list, until `ts.service.emit_metrics` sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dimension import Dimension
from .metric import Metric
from .metric_cache_abstract import SIZE_UNITS, TIME_UNITS, ids_of, with_level, with_model

__all__ = ["Dimension", "Metric", "MetricsStore"]


class MetricsStore:
    """`store` holds one `Metric` for each name, unit, request and set of dimensions; what comes again is sent at once."""

    def __init__(self, request_ids: Mapping[int, str] | Any, model_name: str) -> None:
        self.store: list[Metric] = []
        self.cache: dict[str, Metric] = {}
        self.request_ids = request_ids
        self.model_name = model_name

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: list[Dimension] | None = None
    ) -> None:
        self._add(name, value, "count", self._ids(idx), dimensions, "counter")

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: list[Dimension] | None = None,
    ) -> None:
        if unit not in TIME_UNITS:
            raise ValueError(f"the unit of time metric '{name}' is '{unit}'; expected {' or '.join(TIME_UNITS)}")
        self._add(name, value, unit, self._ids(idx), dimensions)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: list[Dimension] | None = None,
    ) -> None:
        if unit not in SIZE_UNITS:
            raise ValueError(f"the unit of size metric '{name}' is '{unit}'; expected one of {', '.join(SIZE_UNITS)}")
        self._add(name, value, unit, self._ids(idx), dimensions)

    def add_percent(
        self, name: str, value: float, idx: int | None = None, dimensions: list[Dimension] | None = None
    ) -> None:
        self._add(name, value, "percent", self._ids(idx), dimensions)

    def add_error(self, name: str, value: Any, dimensions: list[Dimension] | None = None) -> None:
        self._add(name, value, "", None, dimensions)

    def add_metric(
        self, name: str, value: float, unit: str, idx: int | None = None, dimensions: list[Dimension] | None = None
    ) -> None:
        self._add(name, value, unit, self._ids(idx), dimensions)

    def _ids(self, idx: int | None) -> str | None:
        return ids_of(self.request_ids, idx)

    def _add(
        self,
        name: str,
        value: Any,
        unit: str,
        ids: str | None,
        dimensions: list[Dimension] | None,
        method: str | None = None,
    ) -> None:
        if not isinstance(dimensions, list | None):
            raise ValueError(f"metric '{name}' has dimensions {dimensions!r}; expected a list")
        named = with_level(dimensions, "Error") if ids is None else with_model(dimensions, self.model_name)
        all_dimensions = [Dimension(key, text) for key, text in named.items()]
        place = "-".join([name, unit, str(ids), *map(str, all_dimensions)])
        if place in self.cache:
            self.cache[place].update(value)
            return
        metric = self.cache[place] = Metric(name, value, unit, all_dimensions, ids, method)
        self.store.append(metric)
