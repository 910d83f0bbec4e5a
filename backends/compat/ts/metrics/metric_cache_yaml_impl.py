"""`context.metrics` with the metrics that a metrics.yaml declares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .caching_metric import CachingMetric
from .metric_cache_abstract import MetricCacheAbstract
from .metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from .metric_type_enum import MetricTypes

__all__ = ["CachingMetric", "MetricCacheAbstract", "MetricTypes", "MetricsCacheYamlImpl"]

logger = logging.getLogger(__name__)


class MetricsCacheYamlImpl(MetricCacheAbstract):
    """Reads the file when it is made; `initialize_cache` declares its `model_metrics`, so that `get_metric` finds them."""

    def __init__(self, config_file_path: str) -> None:
        super().__init__(config_file_path)
        if not config_file_path:
            raise MetricsCacheTypeError("expected the path of a metrics.yaml, got none")
        try:
            self._document: Any = yaml.safe_load(Path(config_file_path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise MetricsCachePyYamlError(f"{config_file_path}: {error}") from error
        except OSError as error:
            raise MetricsCacheIOError(f"{config_file_path}: {error}") from error

    def initialize_cache(self) -> None:
        """Declares the metrics; an error names the file and what does not fit."""
        document = self._document
        if not isinstance(document, dict) or "model_metrics" not in document:
            raise MetricsCacheKeyError(f"{self.config_file_path}: expected a mapping 'model_metrics'")
        declared = document["model_metrics"]
        if not isinstance(declared, dict) or not declared:
            raise MetricsCacheValueError(f"{self.config_file_path}: model_metrics declares nothing")
        for kind, entries in declared.items():
            for entry in entries or ():
                self._declare(entry, self._type_of(kind))

    def _type_of(self, kind: object) -> MetricTypes:
        try:
            return MetricTypes(kind)
        except ValueError:
            kinds = ", ".join(known.value for known in MetricTypes)
            raise MetricsCacheKeyError(f"{self.config_file_path}: model_metrics.{kind}: expected one of {kinds}") from None

    def _declare(self, entry: Any, metric_type: MetricTypes) -> None:
        missing = [key for key in ("name", "unit", "dimensions") if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise MetricsCacheKeyError(
                f"{self.config_file_path}: a {metric_type.value} needs name, unit and dimensions, found {entry!r}"
            )
        self.add_metric_to_cache(entry["name"], entry["unit"], entry["dimensions"] or [], metric_type)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        self._check_type(metric_name, str, "metric_name must be text")
        self._check_type(unit, str, "unit must be text")
        self._check_type(metric_type, MetricTypes, "metric_type must be one of MetricTypes")
        if dimension_names:
            self._check_type(dimension_names, list, "dimension_names must be a list of names")
        known = self.cache.setdefault(metric_type, {})
        if metric_name in known:
            logger.warning("the declaration of the %s '%s' is replaced", metric_type.value, metric_name)
        metric = known[metric_name] = CachingMetric(metric_name, unit, dimension_names, metric_type)
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        self._check_type(metric_name, str, "metric_name must be text")
        self._check_type(metric_type, MetricTypes, "metric_type must be one of MetricTypes")
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise MetricsCacheKeyError(f"no {metric_type.value} named '{metric_name}' was declared") from None

    def cache_keys(self) -> list[str]:
        """What is declared, as "counter:name"."""
        return [f"{metric_type.value}:{name}" for metric_type, metrics in self.cache.items() for name in metrics]
