"""Metrics as JSON: `json.dumps(metric, cls=MetricEncoder)`."""

from __future__ import annotations

import json
from typing import Any

from .dimension import Dimension
from .metric import Metric

__all__ = ["Dimension", "Metric", "MetricEncoder"]


class MetricEncoder(json.JSONEncoder):
    def default(self, obj: Any) -> Any:
        return obj.to_dict() if isinstance(obj, Metric | Dimension) else super().default(obj)
