"""Triton's HTTP API: KServe v2 with Triton's extensions. Parses, calls the data plane, renders.

Every path lies under /v2. `errors` says which error is which status; `request` and `reply` are the infer protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import falcon

from . import control, generate, infer, memory, metadata, settings, statistics
from .headers import ForwardedHeaders
from .infer_plan import Inferring
from .resource import Resource, not_found
from .shm import Regions

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane
    from ...settings.settings import Settings
    from ..middleware.access import Access
    from ..middleware.admission import Admission

_MODEL = "/v2/models/{model}"
_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"


def add_routes(
    app: falcon.App[falcon.Request, falcon.Response],
    dataplane: DataPlane,
    server_settings: Settings,
    port: Literal["inference", "management", "metrics"],
    *,
    forward: str = "",
    access: Access,
    admission: Admission,
    regions: Regions | None = None,
    traces: settings.TraceSettings | None = None,
    logs: settings.LogSettings | None = None,
) -> None:
    """Adds this dialect's routes; all of them belong to the inference port.

    `forward`: headers whose names match become parameters of requests. `regions`, `traces`, `logs`: the system shared memory
    and the settings, where others know them too.
    """
    if port != "inference":
        return
    limit = server_settings.max_request_size
    regions, traces = regions or Regions(server_settings.allow_client_shm), traces or settings.TraceSettings()
    app.add_route("/v2", metadata.ServerMetadata(server_settings.server_id))
    app.add_route("/v2/health/live", metadata.Live(dataplane))
    app.add_route("/v2/health/ready", metadata.Ready(dataplane))
    app.add_route("/v2/models/stats", statistics.Statistics(dataplane))
    app.add_route("/v2/trace/setting", settings.Trace(dataplane, traces, limit))
    app.add_route(f"{_MODEL}/trace/setting", settings.Trace(dataplane, traces, limit))
    app.add_route("/v2/logging", settings.Logging(logs or settings.LogSettings(), limit))
    headers = ForwardedHeaders(forward)
    inferring = Inferring(dataplane, access, admission, regions, limit, headers, server_settings.max_response_size)
    for path, resource in _of_models(inferring).items():
        app.add_route(_MODEL + path, resource)
        app.add_route(f"{_MODEL}/versions/{{version}}{path}", resource)
    for path, resource in _of_the_repository(dataplane, limit).items():
        app.add_route("/v2/repository" + path, resource)
        app.add_route("/v2/repository/{repository}" + path, resource)
    for path, resource in _of_shared_memory(regions, limit).items():
        app.add_route(path, resource)
    app.add_sink(not_found, r"/v2(?:/|$)")  # a sink that is added later goes before it


def _of_models(inferring: Inferring) -> dict[str, Resource]:
    dataplane, limit, headers = inferring.dataplane, inferring.limit, inferring.headers
    return {
        "": metadata.ModelMetadata(dataplane),
        "/ready": metadata.ModelReady(dataplane),
        "/config": metadata.Config(dataplane),
        "/stats": statistics.Statistics(dataplane),
        "/infer": infer.Infer(inferring),
        "/generate": generate.Generate(dataplane, limit, headers),
        "/generate_stream": generate.GenerateStream(dataplane, limit, headers),
    }


def _of_the_repository(dataplane: DataPlane, limit: int) -> dict[str, Resource]:
    return {
        "/index": control.Index(dataplane, limit),
        "/models/{model}/load": control.Load(dataplane, limit),
        "/models/{model}/unload": control.Unload(dataplane, limit),
    }


def _of_shared_memory(regions: Regions, limit: int) -> dict[str, Resource]:
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
