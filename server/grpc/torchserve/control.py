"""TorchServe's calls that need no worker, in the scheduler: ping, the six of management, readiness and metadata of models.

Requests have the form of the messages in protobuf's JSON, with the field names of the .proto text; texts are those of REST.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....core.errors import InvalidParameter, InvalidRequest, JitneyError, VersionNotFound
from ...http.torchserve.describe import description
from ...http.torchserve.errors import Target
from ...http.torchserve.management import page, registered, scaled
from ...http.torchserve.parameters import RUNTIMES
from ...http.torchserve.render import to_json
from ...repository.torchserve.registration import Registration
from .errors import ModelApiOff, inference_status, management_status

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane
    from ...serving.dataplane import DataPlane
    from ...settings.settings import Settings

Document = Mapping[str, Any]
_NUMBERS = ("batch_size", "max_batch_delay", "initial_workers", "response_timeout", "startup_timeout")


@dataclass(frozen=True)
class InferenceControl:
    """`control.Control` of the inference port."""

    dataplane: DataPlane

    def call(self, method: str, request: Document) -> Any:
        match method:
            case "Ping":
                return {"health": _text({"status": "Healthy" if self.dataplane.healthy() else "Unhealthy"})}
            case "ServerLive":
                return {"live": self.dataplane.live()}
            case "ServerReady":
                return {"ready": self.dataplane.ready()}
            case "ModelReady":
                return {"ready": self._ready(_name(request, "name"), request.get("version"))}
            case _:
                return self._metadata(_name(request, "model_name"), request.get("version"))

    def status_of(self, method: str, error: JitneyError) -> tuple[str, str]:
        """What is known of models here is told with management's statuses (TorchServe)."""
        return inference_status(error) if isinstance(error, InvalidParameter) else management_status(error)

    def _ready(self, model: str, version: str | None) -> bool:
        self._versions(model, version)
        return self.dataplane.model_ready(model, version)

    def _metadata(self, model: str, version: str | None) -> Document:
        return {"name": model, "versions": self._versions(model, version)}

    def _versions(self, model: str, version: str | None) -> list[str]:
        """All versions of the model, also where one is named; ModelNotFound or VersionNotFound where there is none."""
        versions = self.dataplane.versions(model)
        if version and version not in versions:
            raise VersionNotFound(model, version)
        return versions


@dataclass(frozen=True)
class ManagementControl:
    """`control.Control` of the management port. Integers that are not above 0 count as not given (TorchServe)."""

    dataplane: DataPlane
    control: ControlPlane
    settings: Settings

    def call(self, method: str, request: Document) -> Any:
        found: Callable[[Document], str] = getattr(self, _METHODS[method])
        return {"msg": found(request)}

    def status_of(self, method: str, error: JitneyError) -> tuple[str, str]:
        return management_status(error, Target(verb="set-default" if method == "SetDefault" else "inference"))

    def describe(self, request: Document) -> str:
        model, version = request.get("model_name", ""), request.get("model_version")
        documents = [description(found) for found in self.dataplane.describe(model, version)]
        if version != "all" and request.get("customized"):
            documents[0]["customizedMetadata"] = self.dataplane.customized_metadata(model, version)
        return _text(documents)

    def list(self, request: Document) -> str:
        return _text(page(self.dataplane.models(), request.get("limit", 0), request.get("next_page_token", 0)))

    def register(self, request: Document) -> str:
        self._require_model_api()
        if not request.get("url"):
            raise InvalidParameter("url", None, "a file in the model store, an absolute path or a URL")
        runtime = request.get("runtime") or None
        if runtime is not None and runtime not in RUNTIMES:
            raise InvalidParameter("runtime", runtime, f"one of {', '.join(RUNTIMES)}")
        synchronous = request.get("synchronous", False)
        registration = Registration(
            url=request["url"],
            model_name=request.get("model_name") or None,
            runtime=runtime,
            handler=request.get("handler") or None,
            synchronous=synchronous,
            s3_sse_kms=request.get("s3_sse_kms", False),
            **{name: request[name] for name in _NUMBERS if request.get(name, 0) > 0},
        )
        return registered(*self.control.archives.register(registration), synchronous)[0]

    def scale(self, request: Document) -> str:
        model, version = request.get("model_name", ""), request.get("model_version")
        least = max(0, request.get("min_worker", 0)) or 1
        most = max(0, request.get("max_worker", 0)) or least
        if most < least:
            raise InvalidRequest("max_worker cannot be less than min_worker.")
        synchronous = request.get("synchronous", False)
        running = self.control.archives.scale(model, version, least, most, synchronous)
        return scaled(model, version, least, running if synchronous else None)[0]

    def set_default(self, request: Document) -> str:
        model, version = request.get("model_name", ""), request.get("model_version", "")
        self.control.archives.set_default(model, version)
        return f'Default version successfully updated for model "{model}" to "{version}"'

    def unregister(self, request: Document) -> str:
        self._require_model_api()
        model = request.get("model_name")
        if not model:
            raise InvalidParameter("url", None, "the name of a model")  # TorchServe's text names the wrong parameter
        self.control.archives.unregister(model, request.get("model_version"))
        return f'Model "{model}" unregistered'

    def _require_model_api(self) -> None:
        if not self.settings.model_api:
            raise ModelApiOff("registering and unregistering models is switched off (enable_model_api)")


_METHODS = {
    "DescribeModel": "describe",
    "ListModels": "list",
    "RegisterModel": "register",
    "ScaleWorker": "scale",
    "SetDefault": "set_default",
    "UnregisterModel": "unregister",
}


def _name(request: Document, parameter: str) -> str:
    name: str = request.get("name", "")
    if not name:
        raise InvalidParameter(parameter, None, "the name of a model")
    return name


def _text(document: Any) -> str:
    """TorchServe's JSON, here without the line break at its end."""
    return to_json(document).decode().removesuffix("\n")
