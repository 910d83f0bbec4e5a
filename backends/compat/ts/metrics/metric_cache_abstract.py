"""`context.metrics`: how handlers count, time and measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .caching_metric import CachingMetric
from .dimension import Dimension
from .metric_abstract import MetricAbstract
from .metric_cache_errors import MetricsCacheKeyError, MetricsCacheTypeError, MetricsCacheValueError
from .metric_type_enum import MetricTypes

__all__ = ["Dimension", "MetricAbstract", "MetricCacheAbstract", "MetricTypes"]

TIME_UNITS = ("ms", "s")
SIZE_UNITS = ("MB", "kB", "GB", "B")
Dimensions = Iterable[Dimension] | None


class MetricCacheAbstract(ABC):
    """The metrics of one model. `request_ids` are those of the batch that runs; `idx` picks one of them, None means all.

    The `add_` methods append the dimensions ModelName and Level=Model where the handler names none of its own (as
    `_add_default_dims` of TorchServe's `metric_cache_abstract.py` does).
    """

    def __init__(self, config_file_path: str) -> None:
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self.request_ids: Mapping[int, str] | str | None = None
        self.model_name: str | None = None
        self.config_file_path = config_file_path

    def set_request_ids(self, request_ids: Mapping[int, str] | str | None) -> None:
        self.request_ids = request_ids

    @abstractmethod
    def initialize_cache(self) -> None:
        """Declares what the configuration declares."""

    @abstractmethod
    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Declares a metric, or replaces its declaration."""

    @abstractmethod
    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """A declared metric, or MetricsCacheKeyError."""

    # -- one call does it ------------------------------------------------------------------------------------------------

    def add_counter(self, name: str, value: float, idx: int | None = None, dimensions: Dimensions = ()) -> None:
        self._add(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Dimensions = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in TIME_UNITS:
            raise MetricsCacheValueError(f"the unit of time metric '{name}' is '{unit}'; expected {' or '.join(TIME_UNITS)}")
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Dimensions = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in SIZE_UNITS:
            raise ValueError(f"the unit of size metric '{name}' is '{unit}'; expected one of {', '.join(SIZE_UNITS)}")
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Dimensions = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self._add(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Dimensions = ()) -> None:
        self._update(name, value, "", with_level(dimensions, "Error"), MetricTypes.COUNTER, "")

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Dimensions = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self._add(name, value, unit, idx, dimensions, metric_type)

    # -- the common way --------------------------------------------------------------------------------------------------

    def _add(
        self, name: str, value: float, unit: str, idx: int | None, dimensions: Dimensions, metric_type: MetricTypes
    ) -> None:
        ids = ids_of(self.request_ids, idx)
        named = with_level(dimensions, "Error") if ids is None else with_model(dimensions, self.model_name)
        self._update(name, value, unit, named, metric_type, ids or "")

    def _update(
        self, name: str, value: float, unit: str, dimensions: dict[str, Any], metric_type: MetricTypes, ids: str
    ) -> None:
        try:
            metric = self.get_metric(name, metric_type)
        except MetricsCacheKeyError:
            metric = self.add_metric_to_cache(name, unit, list(dimensions), metric_type)
        metric.update_named(value, dimensions, ids)

    @staticmethod
    def _check_type(variable: object, expected_type: type, helper_text: str) -> None:
        if not isinstance(variable, expected_type):
            raise MetricsCacheTypeError(f"{helper_text}, got {variable!r}")


def ids_of(request_ids: Mapping[int, str] | str | None, idx: int | None) -> str | None:
    """The id of request `idx`; all ids, joined with commas, where it is None or no request of the batch; None without ids."""
    if isinstance(request_ids, Mapping):
        return request_ids[idx] if idx is not None and idx in request_ids else ",".join(request_ids.values())
    return None if request_ids is None else str(request_ids)


def with_model(dimensions: Dimensions, model_name: str | None) -> dict[str, Any]:
    """The dimensions by name, with ModelName and Level=Model where they name neither."""
    named = {dimension.name: dimension.value for dimension in dimensions or ()}
    return {**named, "ModelName": named.get("ModelName", model_name), "Level": named.get("Level", "Model")}


def with_level(dimensions: Dimensions, level: str) -> dict[str, Any]:
    named = {dimension.name: dimension.value for dimension in dimensions or ()}
    return {**named, "Level": named.get("Level", level)}
