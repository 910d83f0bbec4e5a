"""`GET /v2/models/stats` and `/v2/models/M[/versions/V]/stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from ....core.errors import InvalidRequest, ModelNotFound, ModelNotReady, VersionNotFound
from ...metrics.statistics import BatchStatistics, Duration, ModelStatistics
from .resource import Resource, answers_errors, set_json, version_of

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane

_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


class Statistics(Resource):
    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    @answers_errors
    def on_get(
        self, req: falcon.Request, resp: falcon.Response, model: str | None = None, version: str | None = None
    ) -> None:
        try:
            found = self._dataplane.statistics(model, version_of(version))
        except (ModelNotFound, ModelNotReady):
            raise InvalidRequest(f"requested model '{model}' is not available") from None
        except VersionNotFound:
            raise InvalidRequest(f"requested model version is not available for model '{model}'") from None
        set_json(resp, {"model_stats": [document(entry) for entry in found]})


def document(entry: ModelStatistics) -> dict[str, Any]:
    """One model version as Triton's statistics extension shows it."""
    return {
        "name": entry.model,
        "version": entry.version,
        "last_inference": entry.last_inference,
        "inference_count": entry.inference_count,
        "execution_count": entry.execution_count,
        "inference_stats": {name: _duration(getattr(entry, name)) for name in _DURATIONS},
        "response_stats": {},
        "batch_stats": [_batch(size, batch) for size, batch in entry.batches.items()],
        "memory_usage": [],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}


def _batch(size: int, batch: BatchStatistics) -> dict[str, Any]:
    return {
        "batch_size": size,
        "compute_input": _duration(batch.compute_input),
        "compute_infer": _duration(batch.compute_infer),
        "compute_output": _duration(batch.compute_output),
    }
