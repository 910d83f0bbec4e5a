"""Triton's HTTP API: KServe v2 with Triton's extensions. Parses, calls the data plane, renders.

Every path lies under /v2. `errors` says which error is which status; `request` and `reply` are the infer protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon

from . import control, generate, infer, memory, metadata, settings, statistics
from .headers import ForwardedHeaders
from .infer_plan import InferServices
from .resource import Resource, not_found
from .shm import ClientRegions

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane
    from ...serving.dataplane import DataPlane
    from ...serving.inference_plane import InferencePlane
    from ...settings.settings import Settings
    from ...tracing.settings import TraceSettings
    from ..middleware.admission import Admission
    from ..middleware.recorder import Recorder

App = falcon.App[falcon.Request, falcon.Response]

_MODEL = "/v2/models/{model}"
_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"


def inferring(
    plane: InferencePlane, server_settings: Settings, recorder: Recorder, admission: Admission, regions: ClientRegions
) -> InferServices:
    """What this dialect's plans work with. `regions`: the shared memory that clients registered."""
    limit, forwarded = server_settings.max_request_size, ForwardedHeaders(server_settings.http_header_forward_pattern)
    largest, archives = server_settings.max_response_size, server_settings.archives_only
    return InferServices(plane, recorder, admission, regions, limit, forwarded, largest, archives)


def add_infer(app: App, services: InferServices) -> None:
    """Adds the routes that front ends answer themselves."""
    _add_of_models(app, {"/infer": infer.Infer(services)})


def add_routes(
    app: App,
    services: InferServices,
    dataplane: DataPlane,
    control_plane: ControlPlane,
    server_id: str,
    traces: TraceSettings,
    logs: settings.LogSettings,
) -> None:
    """Adds all of this dialect's routes; they belong to the inference port."""
    limit = services.limit
    app.add_route("/v2", metadata.ServerMetadata(server_id))
    app.add_route("/v2/health/live", metadata.Live(dataplane))
    app.add_route("/v2/health/ready", metadata.Ready(dataplane))
    app.add_route("/v2/models/stats", statistics.Statistics(dataplane))
    app.add_route("/v2/trace/setting", settings.Trace(dataplane, traces, limit))
    app.add_route(f"{_MODEL}/trace/setting", settings.Trace(dataplane, traces, limit))
    app.add_route("/v2/logging", settings.Logging(logs, limit))
    add_infer(app, services)
    _add_of_models(app, _of_models(services, dataplane))
    for path, resource in _of_the_repository(control_plane, limit).items():
        app.add_route("/v2/repository" + path, resource)
        app.add_route("/v2/repository/{repository}" + path, resource)
    for path, resource in _of_shared_memory(services.regions, limit).items():
        app.add_route(path, resource)
    app.add_sink(not_found, r"/v2(?:/|$)")  # a sink that is added later goes before it


def _add_of_models(app: App, resources: dict[str, Resource]) -> None:
    for path, resource in resources.items():
        app.add_route(_MODEL + path, resource)
        app.add_route(f"{_MODEL}/versions/{{version}}{path}", resource)


def _of_models(services: InferServices, dataplane: DataPlane) -> dict[str, Resource]:
    limit, headers, tracing = services.limit, services.headers, services.recorder.tracing
    return {
        "": metadata.ModelMetadata(dataplane),
        "/ready": metadata.ModelReady(dataplane),
        "/config": metadata.Config(dataplane),
        "/stats": statistics.Statistics(dataplane),
        "/generate": generate.Generate(dataplane, limit, headers, tracing),
        "/generate_stream": generate.GenerateStream(dataplane, limit, headers, tracing),
    }


def _of_the_repository(control_plane: ControlPlane, limit: int) -> dict[str, Resource]:
    return {
        "/index": control.Index(control_plane, limit),
        "/models/{model}/load": control.Load(control_plane, limit),
        "/models/{model}/unload": control.Unload(control_plane, limit),
    }


def _of_shared_memory(regions: ClientRegions, limit: int) -> dict[str, Resource]:
    system = {"status": memory.Status(regions), "register": memory.Register(regions, limit)}
    cuda = {"status": memory.CudaStatus(), "register": memory.CudaRegister(limit)}
    routes: dict[str, Resource] = {}
    for root, resources in (
        (_SYSTEM, system | {"unregister": memory.Unregister(regions)}),
        (_CUDA, cuda | {"unregister": memory.CudaUnregister()}),
    ):
        for verb, resource in resources.items():
            routes[f"{root}/{verb}"] = resource
            routes[f"{root}/region/{{region}}/{verb}"] = resource
    return routes
