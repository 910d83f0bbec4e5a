"""Metrics that handlers emit."""

from . import dimension, metric, metric_encoder, metrics_store, system_metrics, unit

__all__ = ["dimension", "metric", "metric_encoder", "metrics_store", "system_metrics", "unit"]
