"""The Falcon applications behind the three ports, and the listeners that run them. Addresses that are equal share one.

Order matters: of two patterns that match, the one added later answers. So what is common comes first, and TorchServe's legacy
patterns come before its others.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import falcon
import orjson

from ...core import holding
from ...core.errors import QueueFull
from ..frontends.child.remote_services import SharedPlaces
from ..frontends.frontend_process import Post
from ..frontends.relay_listener import InnerListener
from ..frontends.session import Office
from ..frontends.shared_counters import GONE, Counters
from ..frontends.supervisor import FrontEnds
from ..grpc import listener as grpc
from ..grpc.controls import controls
from . import kserve, torchserve
from .engine.certificates import made_certificate, server_context
from .engine.listener import Listener
from .inline import ALIVE
from .kserve.generate import Generate, GenerateStream
from .kserve.settings import LogSettings, TraceSettings
from .kserve.shm import Regions
from .metrics import add_metrics
from .middleware.access import Access, is_kserve
from .middleware.admission import Admission
from .middleware.cors import Cors
from .plan import PlanTable
from .plan_finder import PlanFinder
from .retry import RETRY_AFTER, SECONDS
from .torchserve import Port
from .torchserve.errors import Problem
from .torchserve.inference import add_inference
from .torchserve.oip import add_open_inference
from .torchserve.predict_plan import Inference
from .torchserve.render import new_request_id, seal, to_json
from .torchserve.routing import Routes

if TYPE_CHECKING:
    from waitress.utilities import Error

    from ..metrics import Metrics
    from ..serving.dataplane import DataPlane
    from ..settings.addresses import Address
    from ..settings.settings import Settings
    from .middleware.tokens import Tokens
    from .torchserve.management import Control

log = logging.getLogger(__name__)

App = falcon.App[falcon.Request, falcon.Response]

PORTS: tuple[Port, ...] = ("inference", "management", "metrics")
#: KServe's resources that wait for a model.
WAITING = (Generate, GenerateStream)
#: Threads beyond those that may wait for models: to refuse, to answer pings, to describe.
RESERVE = 8
MANAGEMENT_THREADS, METRICS_THREADS = 8, 2


@dataclass(frozen=True)
class Services:
    """What the routes work with. `tokens` None: no request needs one."""

    dataplane: DataPlane
    control: Control
    metrics: Metrics
    settings: Settings
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Shared:
    """What KServe's routes have in common with whoever else answers such requests."""

    regions: Regions
    traces: TraceSettings = field(default_factory=TraceSettings)
    logs: LogSettings = field(default_factory=LogSettings)


def build_app(ports: Collection[Port], services: Services, admission: Admission) -> App:
    """The application of one listener that carries these ports."""
    return build(ports, services, admission)[0]


def build(
    ports: Collection[Port],
    services: Services,
    admission: Admission,
    shared: Shared | None = None,
    serves: Callable[[str], bool] = lambda path: True,
) -> tuple[App, PlanTable | None]:
    """The application, and the plans of those of its routes that have any, on the paths that `serves` tells."""
    settings, metrics, dataplane = services.settings, services.metrics, services.dataplane
    access = Access(ports, settings, metrics, services.tokens)
    middleware: list[Any] = [access, KServeAdmission(admission)]
    app = falcon.App(middleware=middleware)
    app.resp_options.default_media_type = None  # type: ignore[assignment]
    app.set_error_serializer(_serialize)
    routes = Routes(app)
    torchserve.add_common(routes, next(port for port in PORTS if port in ports))
    for port in ports:
        kserve.add_routes(
            app,
            dataplane,
            settings,
            port,
            forward=settings.http_header_forward_pattern,
            access=access,
            admission=admission,
            regions=shared.regions if shared else None,
            traces=shared.traces if shared else None,
            logs=shared.logs if shared else None,
        )
    if "metrics" in ports or (settings.enable_metrics_api and {"inference", "management"} <= set(ports)):
        add_metrics(routes, metrics, only_get=settings.replaces_triton)  # TorchServe's shared port has it beside their own
    if "inference" in ports:
        torchserve.add_kserve_v1(routes, dataplane)
    if "management" in ports:
        torchserve.add_management(routes, dataplane, services.control, settings, services.tokens)
    if "inference" in ports:
        add_inference(routes, Inference(dataplane, access, admission, settings.max_response_size))
        if settings.ts_open_inference_protocol:
            add_open_inference(app, dataplane)
    if "inference" not in ports:
        return app, None
    return app, PlanTable(PlanFinder(app, access, serves), dataplane)


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


class Web:
    """All listeners, and the front ends of gRPC. Creating it binds the sockets, so that a busy port is known before any model is
    loaded."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        holding.limit(settings)
        self.admission = Admission(settings.http_threads, settings.max_waiting)
        self.listeners: list[Listener | FrontEnds] = []
        self._shared = Shared(Regions(settings.allow_client_shm))
        self._counters: Counters | None = None
        held: list[socket.socket] = []
        try:
            by_address = _by_address(settings)
            secure = any(address.tls for address, _ in by_address)
            pem = made_certificate(settings) if secure else b""
            tls = server_context(settings, pem) if secure else None
            self.grpc_addresses, held = grpc.served(settings)
            office = self._office(services)
            for address, ports in by_address:
                if "inference" in ports and office is not None and settings.front_ends > 1:
                    self.listeners.append(self._front_ends(address, ports, services, office, pem))
                    continue
                app, plans = build(ports, services, self.admission, self._shared)
                self.listeners.append(
                    Listener(app, address, tls=tls, plans=plans, inline=ALIVE, **listener_options(ports, settings))
                )
            if held and office is not None:
                self.listeners.append(self._grpc(services, office, held))
        except BaseException:
            for sock in held:
                sock.close()
            self.close(0)
            raise

    def _office(self, services: Services) -> Office | None:
        """What front ends of all kinds work with; None where there are none."""
        settings, tokens, regions = services.settings, services.tokens, self._shared.regions
        fronts = _fronts(settings) + (settings.grpc.front_ends if self.grpc_addresses else 0)
        if not fronts:
            return None
        counters = self._counters = Counters.create(fronts)
        for index in range(_fronts(settings), fronts):
            counters.set_connections(index, GONE)  # gRPC's are not to be waited for
        self.admission.waiting = SharedPlaces(settings.max_waiting, counters, 0)
        services.dataplane.registry.on_change = lambda: counters.changed("models")
        regions.on_change = lambda: counters.changed("regions")
        if tokens is not None:
            tokens.on_renewed = lambda: counters.changed("keys")
        services.metrics.collect = self._collect
        return Office(services.dataplane, services.metrics, tokens, regions, counters)

    def _front_ends(
        self, address: Address, ports: Collection[Port], services: Services, office: Office, pem: bytes
    ) -> FrontEnds:
        """Several processes that answer the inference address, and the application for what they relay."""
        settings, count = services.settings, services.settings.front_ends
        app, plans = build(ports, services, self.admission, self._shared)
        inner = InnerListener(app, address, plans=plans, inline=ALIVE, **listener_options(ports, settings))
        return FrontEnds(Post(settings, office, inner, pem, fronts=office.counters.fronts), count)

    def _grpc(self, services: Services, office: Office, held: list[socket.socket]) -> FrontEnds:
        return grpc.listener(
            services.settings, office, controls(services, self._shared), self.grpc_addresses, held,
            _fronts(services.settings), office.counters.fronts,
        )  # fmt: skip

    def _collect(self) -> None:
        for listener in self.listeners:
            if isinstance(listener, FrontEnds):
                listener.collect()

    def start(self) -> None:
        for listener in self.listeners:
            listener.start()

    def wait_started(self) -> None:
        """Returns when every process that answers is there."""
        for listener in self.listeners:
            if isinstance(listener, FrontEnds):
                listener.wait_started()

    def stop_accepting(self) -> None:
        for listener in self.listeners:
            listener.stop_accepting()

    def close(self, timeout: float) -> None:
        """Answers what was accepted, for at most `timeout` seconds, and ends."""
        self.stop_accepting()
        deadline = time.monotonic() + timeout
        for listener in self.listeners:
            listener.close(max(0.0, deadline - time.monotonic()))
        if self._counters is not None:
            self._counters.close()
            self._counters = None

    def addresses(self) -> list[tuple[str, Address]]:
        """Each port that is served with where it listens."""
        return [(port, self.address(port)) for port in PORTS if any(port in listener.ports for listener in self.listeners)]

    def address(self, port: Port) -> Address:
        """Where a port listens in fact (0 asked for any free one)."""
        return next(listener.address for listener in self.listeners if port in listener.ports)


def _fronts(settings: Settings) -> int:
    """Processes that answer HTTP; 0 where the main process does."""
    return settings.front_ends if settings.front_ends > 1 else 0


def _by_address(settings: Settings) -> list[tuple[Address, list[Port]]]:
    """Each address with the ports that it carries. Port 0 is any free port, so never the same one twice."""
    wanted: list[tuple[Port, Address]] = [
        ("inference", settings.inference_address),
        ("management", settings.management_address),
    ]
    if settings.enable_metrics_api:
        wanted.append(("metrics", settings.metrics_address))
    found: list[tuple[Address, list[Port]]] = []
    for port, address in wanted:
        same = next((ports for other, ports in found if other == address and (address.port or address.path)), None)
        if same is not None:
            same.append(port)
        else:
            found.append((address, [port]))
    return found


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
