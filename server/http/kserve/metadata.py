"""Health, server metadata, model metadata and model configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import falcon

from .... import __version__
from ....core.errors import InvalidRequest
from ....core.model_config import ModelConfig, TensorSpec
from .resource import Resource, answers_errors, set_json, version_of

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane

#: Triton's names of what a server offers beyond the core protocol; clients look here before they use it.
EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
    "generate",
)


def _set_health(resp: falcon.Response, healthy: bool) -> None:
    """An empty body; 400 where the answer is no (Triton)."""
    resp.status = 200 if healthy else 400
    resp.content_type = "text/plain"


class Live(Resource):
    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _set_health(resp, self._dataplane.live())


class Ready(Resource):
    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        _set_health(resp, self._dataplane.ready())


class ModelReady(Resource):
    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        if not self._dataplane.model_ready(model, version_of(version)):
            raise InvalidRequest("Model version not ready")
        _set_health(resp, True)


class ServerMetadata(Resource):
    """`name` is what the operator calls the server; scripts look for Triton's default."""

    def __init__(self, name: str) -> None:
        self._name = name

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        set_json(resp, {"name": self._name, "version": __version__, "extensions": EXTENSIONS})


class ModelMetadata(Resource):
    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        version = version_of(version)
        config = self._dataplane.config(model, version)
        set_json(resp, metadata(config, [version] if version else self._dataplane.versions(model)))


class Config(Resource):
    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        set_json(resp, document(self._dataplane.config(model, version_of(version))))


def document(config: ModelConfig) -> dict[str, Any]:
    """The configuration as Triton shows it; for a model that came without one, as an archive does, the little there is."""
    bare = {"name": config.name, "platform": config.platform, "backend": config.backend, "input": [], "output": []}
    return dict(config.config_json) or {**bare, "max_batch_size": config.max_batch_size}


def metadata(config: ModelConfig, versions: Sequence[str]) -> dict[str, Any]:
    """A model's metadata; `platform` is the backend's name where the configuration has no platform (Triton)."""
    return {
        "name": config.name,
        "versions": versions,
        "platform": config.platform or config.config_json.get("backend") or config.backend,
        "inputs": [_tensor(config, spec) for spec in config.inputs],
        "outputs": [_tensor(config, spec) for spec in config.outputs],
    }


def _tensor(config: ModelConfig, spec: TensorSpec) -> dict[str, Any]:
    shape = (-1, *spec.dims) if config.batches else spec.dims
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape}
