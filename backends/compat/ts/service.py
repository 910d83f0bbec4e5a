"""`Service`: a handler's entry point with its context, for programs that call handlers without a server.

jitney's workers do not use it; they run handlers by `backends/handler.py`, with the same rules.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jitney.backends.handler_data import BAD_LENGTH, BAD_LIST, is_out_of_resources

from .context import Context, RequestProcessor
from .metrics.metric import Metric
from .protocol.otf_message_handler import create_predict_response
from .utils.util import PredictionException, get_yaml_config
from .version import __version__

__all__ = [
    "PREDICTION_METRIC",
    "Context",
    "PredictionException",
    "RequestProcessor",
    "Service",
    "create_predict_response",
    "emit_metrics",
    "get_yaml_config",
]

PREDICTION_METRIC = "PredictionTime"
logger = logging.getLogger(__name__)


class Service:
    """`predict` takes a batch as `otf_message_handler.retrieve_msg` reads it, and gives the response's bytes."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: Callable[[Any, Context], Any],
        gpu: int | None,
        batch_size: int | None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> None:
        config_file = (manifest or {}).get("model", {}).get("configFile")
        yaml = get_yaml_config(str(Path(model_dir) / config_file)) if config_file else {}
        self._entry_point = entry_point
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size or 1,
            gpu,
            __version__,
            limit_max_image_pixels,
            metrics_cache,
            yaml,
        )
        self.cl_socket: Any = None

    @property
    def context(self) -> Context:
        return self._context

    def set_cl_socket(self, cl_socket: Any) -> None:
        """Where `send_intermediate_predict_response` writes to."""
        self.cl_socket = cl_socket

    def __call__(self, data: Any) -> Any:
        """Calls the entry point as it is called for a batch."""
        return self._entry_point(data, self._context)

    @staticmethod
    def retrieve_data_for_inference(
        batch: Sequence[dict[str, Any]] | None,
    ) -> tuple[list[RequestProcessor], list[dict[str, Any]], dict[int, str]]:
        """(headers, the handler's rows, request ids by index) of a batch."""
        if batch is None:
            raise ValueError("Received invalid inputs: there is no batch")
        headers, rows = [], []
        for request in batch:
            rows.append({part["name"]: part["value"] for part in request["parameters"]})
            shown = {part["name"]: {"content-type": part["contentType"]} for part in request["parameters"]}
            shown |= {h["name"].decode("utf-8"): h["value"].decode("utf-8") for h in request.get("headers") or ()}
            headers.append(RequestProcessor(shown))
        return headers, rows, {index: request["requestId"].decode("utf-8") for index, request in enumerate(batch)}

    def predict(self, batch: Sequence[dict[str, Any]] | None) -> bytearray | None:
        """Handles a batch; what goes wrong is a response with its status, as TorchServe's workers answer it."""
        headers, rows, ids = self.retrieve_data_for_inference(batch)
        context = self._context
        context.request_ids, context.request_processor, context.cl_socket = ids, headers, self.cl_socket
        if context.metrics is not None:
            context.metrics.request_ids = ids
        start = time.perf_counter()
        try:
            result = self._entry_point(rows, context)
        except PredictionException as error:
            return create_predict_response(None, ids, error.message, error.error_code)
        except Exception as error:
            logger.exception("the handler of model %s failed", context.model_name)
            failed = ("Out of resources", 507) if is_out_of_resources(error) else ("Prediction failed", 503)
            return create_predict_response(None, ids, *failed)
        if not isinstance(result, list):
            return create_predict_response(None, ids, BAD_LIST, 503)
        if len(result) != len(rows):
            return create_predict_response(None, ids, BAD_LENGTH, 503)
        if context.metrics is not None:
            context.metrics.add_time(PREDICTION_METRIC, round((time.perf_counter() - start) * 1000, 2))
        return create_predict_response(result, ids, "Prediction success", 200, context)


def emit_metrics(metrics: Iterable[Metric] | None) -> None:
    """Sends metrics to the server."""
    for metric in metrics or ():
        metric.emit()
