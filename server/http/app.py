"""The Falcon applications behind the three ports.

Order matters: of two patterns that match, the one added later answers. So what is common comes first, and TorchServe's legacy
patterns come before its others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import falcon
import orjson

from ...core.errors import JitneyError, QueueFull
from ..ipc.io_context import IoContext
from ..tracing.sampling import Tracing
from ..tracing.settings import TraceSettings
from . import kserve, torchserve
from .dialect import is_kserve
from .kserve.generate import Generate, GenerateStream
from .kserve.infer_plan import InferServices
from .kserve.resource import set_error
from .kserve.settings import LogSettings
from .kserve.shm import ClientRegions
from .metrics import add_metrics
from .middleware.access import Access
from .middleware.admission import Admission
from .middleware.cors import Cors
from .middleware.guard import Guards
from .middleware.recorder import Recorder
from .openapi import add_openapi
from .plan import PlanTable
from .plan_finder import PlanFinder
from .retry import RETRY_AFTER, SECONDS
from .status import StatusDocument, add_status
from .torchserve import Port
from .torchserve.errors import Problem
from .torchserve.inference import add_inference, add_predictions
from .torchserve.oip import add_open_inference
from .torchserve.predict_plan import PredictServices
from .torchserve.render import new_request_id, seal, to_json
from .torchserve.routing import Exchange, Routes, answer

if TYPE_CHECKING:
    from waitress.utilities import Error

    from ..lifecycle.control_plane import ControlPlane
    from ..metrics import Metrics
    from ..metrics.request_counters import RequestMetrics
    from ..serving.dataplane import DataPlane
    from ..serving.inference_plane import InferencePlane
    from ..settings.settings import Settings
    from .middleware.tokens import Keys, Tokens

log = logging.getLogger(__name__)

App = falcon.App[falcon.Request, falcon.Response]

PORTS: tuple[Port, ...] = ("inference", "management", "metrics")
#: KServe's resources that wait for a model.
WAITING = (Generate, GenerateStream)
#: Threads beyond those that may wait for models: to refuse, to answer pings, to describe.
RESERVE = 8
MANAGEMENT_THREADS, METRICS_THREADS = 8, 2


@dataclass(frozen=True)
class InferenceServices:
    """What the inference routes work with, in the scheduler's process or in a front end. `keys` None: no request needs one."""

    plane: InferencePlane
    metrics: RequestMetrics
    settings: Settings
    keys: Keys | None
    admission: Admission
    regions: ClientRegions
    tracing: Tracing = field(default_factory=Tracing)


@dataclass(frozen=True)
class Services:
    """What all routes work with. `tokens` None: no request needs one."""

    dataplane: DataPlane
    control: ControlPlane
    metrics: Metrics
    settings: Settings
    tokens: Tokens | None = None
    io: IoContext = field(default_factory=IoContext)
    tracing: Tracing = field(default_factory=Tracing)
    traces: TraceSettings = field(default_factory=TraceSettings)

    def inference(self, admission: Admission, regions: ClientRegions) -> InferenceServices:
        """Those that inference works with."""
        counted = self.metrics.torchserve
        return InferenceServices(self.dataplane, counted, self.settings, self.tokens, admission, regions, self.tracing)


@dataclass(frozen=True)
class Shared:
    """What KServe's routes share with gRPC's service: shared memory of clients, and settings."""

    regions: ClientRegions
    logs: LogSettings = field(default_factory=LogSettings)


class Application:
    """Falcon's application of one listener that carries `ports`, and what makes plans of its routes."""

    def __init__(self, ports: Collection[Port], services: InferenceServices) -> None:
        self.services = services
        self.guards = Guards(ports, services.settings, services.keys)
        self.recorder = Recorder(services.settings, services.metrics, services.tracing)
        middleware: list[Any] = [Access(self.guards, self.recorder, _refuse_in_dialect), KServeAdmission(services.admission)]
        self.app = falcon.App(middleware=middleware)
        self.app.resp_options.default_media_type = None  # type: ignore[assignment]
        self.app.set_error_serializer(_serialize)
        self.routes = Routes(self.app)
        self.root = torchserve.add_common(self.routes, next(port for port in PORTS if port in ports))

    def torchserve(self) -> PredictServices:
        """What TorchServe's plans work with."""
        services = self.services
        return PredictServices(services.plane, self.recorder, services.admission, services.settings.max_response_size)

    def kserve(self) -> InferServices:
        """What KServe v2's plans work with."""
        services = self.services
        return kserve.inferring(services.plane, services.settings, self.recorder, services.admission, services.regions)

    def plans(self, serves: Callable[[str], bool] = lambda path: True) -> PlanTable:
        """The plans of its routes, on the paths that `serves` tells."""
        return PlanTable(PlanFinder(self.app, self.guards, serves), self.services.plane)


def build_inference(
    ports: Collection[Port], services: InferenceServices, serves: Callable[[str], bool]
) -> tuple[App, PlanTable]:
    """The application of a front end: what it answers itself, which are the paths that `serves` tells."""
    made = Application(ports, services)
    kserve.add_infer(made.app, made.kserve())
    add_predictions(made.routes, made.torchserve())
    return made.app, made.plans(serves)


def build(ports: Collection[Port], services: Services, admission: Admission, shared: Shared) -> tuple[App, PlanTable | None]:
    """The application of one listener that carries these ports, and the plans of those of its routes that have any."""
    settings, metrics, dataplane = services.settings, services.metrics, services.dataplane
    made = Application(ports, services.inference(admission, shared.regions))
    app, routes = made.app, made.routes
    if "inference" in ports:
        kserve.add_routes(app, made.kserve(), dataplane, services.control, settings.server_id, services.traces, shared.logs)
    if "metrics" in ports or (settings.enable_metrics_api and {"inference", "management"} <= set(ports)):
        add_metrics(routes, metrics, only_get=settings.replaces_triton)  # TorchServe's shared port has it beside their own
    if "inference" in ports:
        torchserve.add_kserve_v1(routes, dataplane)
    if "management" in ports:
        torchserve.add_management(routes, dataplane, services.control, settings, services.tokens)
        if settings.status_page == "on":
            document = StatusDocument(dataplane, services.control, settings, admission)
            add_status(routes, document, made.torchserve(), made.kserve(), made.root)
    if {"inference", "management"} & set(ports):
        add_openapi(routes, ports, settings, made.root)
    if "inference" not in ports:
        return app, None
    if settings.ts_open_inference_protocol:
        routes.add(r"/v2(?:/.*)?", torchserve.not_found)
    add_inference(routes, made.torchserve(), dataplane)
    if settings.ts_open_inference_protocol:
        add_open_inference(app, dataplane)
    return app, made.plans()


class KServeAdmission:
    """Falcon middleware: KServe requests that wait for a model need a place, as TorchServe's do."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]) -> None:
        if isinstance(resource, WAITING):
            try:
                self.admission.hold(req)
            except QueueFull as error:
                resp.status, resp.content_type = falcon.HTTP_503, "application/json"
                resp.set_header(RETRY_AFTER, SECONDS)
                resp.data, resp.complete = orjson.dumps({"error": str(error)}), True


def listener_options(ports: Collection[Port], settings: Settings) -> dict[str, Any]:
    """What the listeners of these ports have in common, whatever their kind."""
    threads = (settings.http_threads + RESERVE) * ("inference" in ports)
    threads += MANAGEMENT_THREADS * ("management" in ports) + METRICS_THREADS * ("metrics" in ports)
    return {
        "name": "-".join(ports),
        "ports": ports,
        "setting": f"{next(iter(ports))}_address",
        "threads": threads,
        "max_body": settings.max_request_size,
        "refuse": partial(_refuse, Cors(settings)),
    }


def _refuse(cors: Cors, path: str, error: Error) -> tuple[str, list[tuple[str, str]], bytes]:
    """What never reaches a route, in the dialect of its path where there is one."""
    allowed = list(cors.headers(None).items())
    if not is_kserve(path):
        status, headers, body = torchserve.refuse(path, error)
    else:
        status, headers = falcon.code_to_http_status(error.code), [("content-type", "application/json")]
        body = orjson.dumps({"error": str(error.body)})
    return status, [*headers, *allowed, *[(RETRY_AFTER, SECONDS)] * (error.code == 503)], body


def _refuse_in_dialect(req: falcon.Request, resp: falcon.Response, error: JitneyError) -> None:
    """Answers in the dialect of the path."""
    if is_kserve(req.path):
        set_error(req, resp, error)
        return

    def fail(exchange: Exchange) -> None:
        raise error

    answer(Exchange(req, resp), fail)


_TYPES = {404: "ResourceNotFoundException", 405: "MethodNotAllowedException"}


def _serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Errors that Falcon raises itself, in the dialect of the path."""
    text = error.description or error.title or str(error.status)
    resp.content_type = "application/json"
    if is_kserve(req.path):
        resp.data = orjson.dumps({"error": text})
        return
    kind = _TYPES.get(error.status_code, "BadRequestException" if error.status_code < 500 else "InternalServerException")
    resp.data = to_json(Problem(error.status_code, kind, text)._asdict())
    seal(req, resp, new_request_id())
