"""The calls of Triton's service that need no worker: health, metadata, statistics, repository, shared memory, settings.

The scheduler answers them. They share their logic and their state with the routes of `http.kserve`. Requests and answers have
the form of the messages in protobuf's JSON, with the field names of the .proto text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .... import __version__
from ....core.errors import (
    InvalidConfig,
    InvalidRequest,
    JitneyError,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    StepsUnfit,
    VersionNotFound,
)
from ....core.names import relative_path, safe_name
from ...http.kserve import metadata, statistics
from ...http.kserve.control import refuse_repository
from ...http.kserve.errors import RegionNotFound
from ...http.kserve.settings import LogSettings
from ...http.kserve.shm import ClientRegions
from ...tracing.settings import TraceSettings
from . import settings
from .errors import PollFailed, status_of
from .versions import version_of

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane
    from ...serving.dataplane import DataPlane

Document = Mapping[str, Any]
_FILE = "file:"
#: Bytes of a cudaIpcMemHandle_t.
_CUDA_HANDLE_BYTES = 64


@dataclass(frozen=True)
class TritonControl:
    """`control.Control` of inference.GRPCInferenceService, and of the standard health service."""

    dataplane: DataPlane
    control: ControlPlane
    regions: ClientRegions
    traces: TraceSettings
    logs: LogSettings
    server_id: str

    def status_of(self, method: str, error: JitneyError) -> tuple[str, str]:
        return status_of(error)

    def call(self, method: str, request: Document) -> Any:
        found: Callable[[Document], Any] = getattr(self, _METHODS[method])
        return found(request)

    # -- health and metadata ----------------------------------------------------------------------------------------------

    def live(self, request: Document) -> Document:
        return {"live": self.dataplane.live()}

    def ready(self, request: Document) -> Document:
        return {"ready": self.dataplane.ready()}

    def check(self, request: Document) -> Document:
        """grpc.health.v1: of the whole server, whatever service is named (Triton)."""
        return {"status": "SERVING" if self.dataplane.ready() else "NOT_SERVING"}

    def model_ready(self, request: Document) -> Document:
        name, version = _named(request)
        return {"ready": self.dataplane.model_ready(name, version)}

    def server_metadata(self, request: Document) -> Document:
        return {"name": self.server_id, "version": __version__, "extensions": metadata.EXTENSIONS}

    def model_metadata(self, request: Document) -> Document:
        name, version = _named(request)
        config = self.dataplane.config(name, version)
        return metadata.metadata(config, [version] if version else self.dataplane.versions(name))

    def model_config(self, request: Document) -> Document:
        return {"config": metadata.document(self.dataplane.config(*_named(request)))}

    def statistics(self, request: Document) -> Document:
        name, version = _named(request)
        try:
            found = self.dataplane.statistics(name or None, version)
        except (ModelNotFound, ModelNotReady):
            raise InvalidRequest(f"requested model '{name}' is not available") from None
        except VersionNotFound:
            raise InvalidRequest(f"requested model version is not available for model '{name}'") from None
        return {"model_stats": [statistics.document(entry) for entry in found]}

    # -- repository ------------------------------------------------------------------------------------------------------

    def index(self, request: Document) -> Document:
        refuse_repository(request.get("repository_name"))
        found = self.control.index(bool(request.get("ready")))
        rows = [{"name": e.name, "version": e.version, "state": str(e.state), "reason": e.reason} for e in found]
        return {"models": [{key: value for key, value in row.items() if value} for row in rows]}

    def load(self, request: Document) -> Document:
        refuse_repository(request.get("repository_name"))
        model = request.get("model_name", "")
        config, files = _load_parameters(request.get("parameters", {}))
        try:
            if files and config is None:
                raise InvalidRequest("a 'config' parameter is required with 'file:' parameters")
            safe_name(model)
            self.control.repository.load(model, config, files or None)
        except ModelNotFound:
            raise PollFailed(model, "no repository has a model of this name") from None
        except (LoadFailed, StepsUnfit) as error:
            begin = f"load failed for model '{model}': "
            raise (error if str(error).startswith(begin) else error.within(begin)) from error
        except (InvalidConfig, InvalidRequest) as error:
            raise PollFailed(model, str(error)) from error
        return {}

    def unload(self, request: Document) -> Document:
        refuse_repository(request.get("repository_name"))
        dependents = request.get("parameters", {}).get("unload_dependents", {"bool_param": False})
        if "bool_param" not in dependents:
            raise InvalidRequest("invalid value type for 'unload_dependents' parameter, expected bool_param.")
        model = request.get("model_name", "")
        safe_name(model)
        self.control.repository.unload(model, dependents["bool_param"])
        return {}

    # -- shared memory ---------------------------------------------------------------------------------------------------

    def shm_status(self, request: Document) -> Document:
        return {"regions": {entry["name"]: entry for entry in self.regions.status(request.get("name"))}}

    def shm_register(self, request: Document) -> Document:
        offset, size = int(request.get("offset", 0)), int(request.get("byte_size", 0))
        self.regions.register(request.get("name", ""), request.get("key", ""), offset, size)
        return {}

    def shm_unregister(self, request: Document) -> Document:
        self.regions.unregister(request.get("name"))
        return {}

    def cuda_status(self, request: Document) -> Document:
        """No CUDA region is ever registered, see `cuda_register`."""
        if request.get("name"):
            raise RegionNotFound(f"Unable to find cuda shared memory region: '{request['name']}'")
        return {}

    def cuda_register(self, request: Document) -> Document:
        """Refuses every handle: the server has no CUDA context in which one could be opened."""
        if len(base64.b64decode(request.get("raw_handle", ""))) != _CUDA_HANDLE_BYTES:
            raise InvalidRequest(f"'raw_handle' must be a cudaIpcMemHandle_t of {_CUDA_HANDLE_BYTES} bytes")
        raise InvalidRequest("failed to register shared memory region: invalid args")

    def cuda_unregister(self, request: Document) -> Document:
        return {}

    # -- settings --------------------------------------------------------------------------------------------------------

    def trace(self, request: Document) -> Document:
        model = request.get("model_name") or None
        if model is not None and not self.dataplane.model_ready(model):
            raise InvalidRequest(f"Request for unknown model : {model}")
        changes = settings.read_trace(request.get("settings", {}))
        found = self.traces.update(changes, model) if changes else self.traces.get(model)
        return settings.write_trace(found)

    def logging(self, request: Document) -> Document:
        changes = settings.read_log(request.get("settings", {}))
        return settings.write_log(self.logs.update(changes) if changes else self.logs.get())


_METHODS = {
    "Check": "check",
    "ServerLive": "live",
    "ServerReady": "ready",
    "ModelReady": "model_ready",
    "ServerMetadata": "server_metadata",
    "ModelMetadata": "model_metadata",
    "ModelConfig": "model_config",
    "ModelStatistics": "statistics",
    "RepositoryIndex": "index",
    "RepositoryModelLoad": "load",
    "RepositoryModelUnload": "unload",
    "SystemSharedMemoryStatus": "shm_status",
    "SystemSharedMemoryRegister": "shm_register",
    "SystemSharedMemoryUnregister": "shm_unregister",
    "CudaSharedMemoryStatus": "cuda_status",
    "CudaSharedMemoryRegister": "cuda_register",
    "CudaSharedMemoryUnregister": "cuda_unregister",
    "TraceSetting": "trace",
    "LogSettings": "logging",
}


def _named(request: Document) -> tuple[str, str | None]:
    return request.get("name", ""), version_of(request.get("version", ""))


def _load_parameters(parameters: Document) -> tuple[str | None, dict[str, bytes]]:
    """The override configuration (JSON) and the files of a load request, by path relative to the model's folder."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for name in sorted(parameters):
        value = parameters[name]
        if name == "config":
            config = _load_value(name, value, "string_param")
        elif name.startswith(_FILE):
            data = base64.b64decode(_load_value(name, value, "bytes_param"))
            files[str(relative_path(name.removeprefix(_FILE), InvalidRequest))] = data
        else:
            raise InvalidRequest(f"unrecognized load parameter '{name}'.")
    return config, files


def _load_value(name: str, value: Document, kind: str) -> str:
    if kind not in value:
        raise InvalidRequest(f"invalid value type for load parameter '{name}', expected {kind}.")
    found: str = value[kind]
    return found
