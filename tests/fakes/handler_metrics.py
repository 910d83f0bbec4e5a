"""`context.metrics` as a worker makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jitney.backends.compat.ts.metrics import metric_cache_yaml_impl

DEFAULTS = Path(metric_cache_yaml_impl.__file__).parents[1] / "configs/metrics.yaml"


def made_metrics(model: str, request_ids: Mapping[int, str] | None = None) -> metric_cache_yaml_impl.MetricsCacheYamlImpl:
    """Of a model, with what is declared where no metrics.yaml is named; without ids, as while a handler loads."""
    cache = metric_cache_yaml_impl.MetricsCacheYamlImpl(str(DEFAULTS))
    cache.initialize_cache()
    cache.model_name = model
    cache.set_request_ids(request_ids if request_ids is not None else "while loading")
    return cache
