"""`context.metrics` with the metrics that a metrics.yaml declares."""

from __future__ import annotations

from typing import Any

from ..utils.util import get_yaml_config
from .metric_cache_abstract import MetricCacheAbstract
from .metric_cache_errors import MetricsCacheTypeError
from .metric_type_enum import MetricTypes


class MetricsCacheYamlImpl(MetricCacheAbstract):
    """Knows the `model_metrics` of a metrics.yaml from the start, so that `get_metric` finds them."""

    def __init__(self, config_file_path: str = "", model_name: str = "") -> None:
        super().__init__(model_name)
        self.config_file_path = config_file_path

    def initialize_cache(self) -> None:
        """Reads the file. Raises `MetricsCacheTypeError` naming what does not fit."""
        declared = get_yaml_config(self.config_file_path).get("model_metrics")
        if not isinstance(declared, dict):
            raise MetricsCacheTypeError(f"{self.config_file_path}: expected a mapping 'model_metrics'")
        for metric_type in MetricTypes:
            for entry in declared.get(metric_type.value) or []:
                self._declare(entry, metric_type)

    def _declare(self, entry: Any, metric_type: MetricTypes) -> None:
        try:
            self.add_metric_to_cache(entry["name"], entry["unit"], entry["dimensions"] or [], metric_type)
        except (KeyError, TypeError) as error:
            raise MetricsCacheTypeError(
                f"{self.config_file_path}: a {metric_type.value} needs name, unit and dimensions, found {entry!r}"
            ) from error
