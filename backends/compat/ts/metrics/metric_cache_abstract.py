"""`context.metrics`: how handlers count, time and measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .caching_metric import CachingMetric
from .dimension import Dimension
from .metric_cache_errors import MetricsCacheKeyError, MetricsCachePyTypeError
from .metric_type_enum import MetricTypes

TIME_UNITS = ("ms", "s")
SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricCacheAbstract:
    """The metrics of one model. `request_ids` are those of the batch that runs; `idx` picks one of them, None means all.

    ModelName and Level=Model are appended to the dimensions of every metric that the `add_` methods make.
    """

    def __init__(self, model_name: str = "", request_ids: Mapping[int, str] | None = None) -> None:
        self.model_name = model_name
        self.request_ids = request_ids
        self.cache: dict[tuple[MetricTypes, str], CachingMetric] = {}

    def set_request_ids(self, request_ids: Mapping[int, str]) -> None:
        self.request_ids = request_ids

    # -- one call does it ------------------------------------------------------------------------------------------------

    def add_counter(self, name: str, value: float, idx: int | None = None, dimensions: Iterable[Dimension] = ()) -> None:
        self._add(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Iterable[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in TIME_UNITS:
            raise ValueError(f"the unit of time metric '{name}' is '{unit}'; expected one of {', '.join(TIME_UNITS)}")
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Iterable[Dimension] = (),
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
        dimensions: Iterable[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self._add(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Iterable[Dimension] = ()) -> None:
        self._update(name, value, "", [*(dimensions or ()), Dimension("Level", "Error")], MetricTypes.COUNTER, None)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Iterable[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self._add(name, value, unit, idx, dimensions, metric_type)

    # -- declared once, updated often ------------------------------------------------------------------------------------

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Declares a metric, or replaces its declaration."""
        _expect(metric_name, str, "metric_name")
        _expect(metric_type, MetricTypes, "metric_type")
        metric = CachingMetric(metric_name, unit, dimension_names or (), metric_type)
        self.cache[metric_type, metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        _expect(metric_name, str, "metric_name")
        _expect(metric_type, MetricTypes, "metric_type")
        try:
            return self.cache[metric_type, metric_name]
        except KeyError:
            raise MetricsCacheKeyError(f"no {metric_type.value} named '{metric_name}' was declared") from None

    # -- the common way --------------------------------------------------------------------------------------------------

    def _add(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None,
        dimensions: Iterable[Dimension] | None,
        metric_type: MetricTypes,
    ) -> None:
        own = [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        self._update(name, value, unit, [*(dimensions or ()), *own], metric_type, idx)

    def _update(
        self, name: str, value: float, unit: str, dimensions: list[Dimension], metric_type: MetricTypes, idx: int | None
    ) -> None:
        names = [dimension.name for dimension in dimensions]
        metric = self.cache.get((metric_type, name))
        if metric is None or metric.dimension_names != names:
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        metric.update(value, self._request_id(idx), dimensions)

    def _request_id(self, idx: int | None) -> str:
        ids = self.request_ids or {}
        return ",".join(ids.values()) if idx is None else ids.get(idx, "")


def _expect(value: object, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise MetricsCachePyTypeError(f"{name} must be of type {kind.__name__}, got {value!r}")
