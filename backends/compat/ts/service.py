"""What handlers import from TorchServe's service module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .context import Context
from .metrics.metric import Metric
from .utils.util import PredictionException
from .version import __version__

__all__ = ["PredictionException", "Service", "emit_metrics"]


class Service:
    """An entry point and the context it is called with."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: Callable[[Any, Context], Any],
        gpu: int | None,
        batch_size: int,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self._entry_point = entry_point
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size,
            gpu,
            __version__,
            limit_max_image_pixels,
            metrics_cache,
            model_yaml_config,
        )

    @property
    def context(self) -> Context:
        return self._context

    def __call__(self, data: Any) -> Any:
        """Calls the entry point as it is called for a batch."""
        return self._entry_point(data, self._context)


def emit_metrics(metrics: Iterable[Metric]) -> None:
    """Sends metrics to the server."""
    for metric in metrics:
        metric.emit()
