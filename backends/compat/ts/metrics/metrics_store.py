"""The legacy name of a model's metrics."""

from __future__ import annotations

from collections.abc import Mapping

from .metric_cache_abstract import MetricCacheAbstract


class MetricsStore(MetricCacheAbstract):
    """`MetricsStore(request_ids, model_name)`; values go to the server as they are added, so there is no store to empty."""

    def __init__(self, request_ids: Mapping[int, str] | None, model_name: str) -> None:
        super().__init__(model_name, request_ids)
