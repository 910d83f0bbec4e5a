"""`Web`: the listeners of the three ports. Addresses that are equal share one; several front ends may share one too."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..core import holding
from .frontends.child.remote_services import SharedPlaces
from .frontends.frontend_process import FrontendSpec
from .frontends.queries import SharedServices
from .frontends.relay_listener import RelayListener
from .frontends.shared_counters import GONE, SharedCounters
from .frontends.supervisor import FrontEnds
from .grpc import listener as grpc
from .grpc.controls import controls
from .http.app import PORTS, Services, Shared, build, listener_options
from .http.engine.certificates import made_certificate, server_context
from .http.engine.listener import Listener
from .http.inline import ALIVE
from .http.kserve.settings import LogSettings
from .http.kserve.shm import ClientRegions
from .http.middleware.admission import Admission
from .http.torchserve import Port
from .ipc.io_context import IoContext

if TYPE_CHECKING:
    from .settings.addresses import Address
    from .settings.settings import Settings


class Web:
    """All listeners, and the front ends of gRPC. Creating it binds the sockets, so that a busy port is known before any model is
    loaded."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        holding.limit(settings.held_bytes)
        self.admission = Admission(settings.http_threads, settings.max_waiting, services.io.coalescer)
        self.listeners: list[Listener | FrontEnds] = []
        logged = LogSettings(settings.log_level, settings.log_file, settings.log_format)
        self._shared = Shared(ClientRegions(settings.allow_client_shm), logged)
        self._telling = threading.Lock()
        self._tracing, self._traces = services.tracing, services.traces
        services.traces.on_change = self._trace
        self._trace()
        self._counters: SharedCounters | None = None
        self._second: Listener | None = None
        held: list[socket.socket] = []
        try:
            by_address = _by_address(settings)
            secure = any(address.tls for address, _ in by_address) or bool(
                settings.kserve_address and settings.kserve_address.tls
            )
            pem = made_certificate(settings) if secure else b""
            tls = server_context(settings, pem) if secure else None
            self.grpc_addresses, held = grpc.served(settings)
            front = self._shared_by_front_ends(services)
            for address, ports in by_address:
                if "inference" in ports and front is not None and settings.front_ends > 1:
                    self.listeners.append(self._front_ends(address, ports, services, front, pem))
                    continue
                self.listeners.append(self._listener(address, ports, services, tls, services.io))
            if (second := settings.kserve_address) is not None and all(second != address for address, _ in by_address):
                # Workers' sockets are lent to the inference address' loop only.
                own = IoContext(coalescer=services.io.coalescer)
                self._second = self._listener(second, ["inference"], services, tls, own, setting="kserve_address")
                self.listeners.append(self._second)
            if held and front is not None:
                self.listeners.append(self._grpc(services, front, held))
        except BaseException:
            for sock in held:
                sock.close()
            self.close(0)
            raise

    def _listener(
        self, address: Address, ports: Collection[Port], services: Services, tls: Any, io: IoContext, **more: str
    ) -> Listener:
        """A listener that this process answers; TLS where its address says https."""
        app, plans = build(ports, services, self.admission, self._shared)
        options = listener_options(ports, services.settings) | more
        per_address = services.settings.max_connections_per_address
        return Listener(app, address, tls=tls, plans=plans, inline=ALIVE, io=io, per_address=per_address, **options)

    def _shared_by_front_ends(self, services: Services) -> SharedServices | None:
        """What front ends of all kinds work with; None where there are none."""
        settings, tokens, regions = services.settings, services.tokens, self._shared.regions
        fronts = _fronts(settings) + (settings.grpc.front_ends if self.grpc_addresses else 0)
        if not fronts:
            return None
        counters = self._counters = SharedCounters.create(fronts)
        for index in range(_fronts(settings), fronts):
            counters.set_connections(index, GONE)  # gRPC's are not to be waited for
        self.admission.waiting = SharedPlaces(settings.max_waiting, counters, 0, services.io.coalescer)
        services.dataplane.registry.on_change = lambda: counters.changed("models")
        regions.on_change = lambda: counters.changed("regions")
        if tokens is not None:
            tokens.on_renewed = lambda: counters.changed("keys")
        services.metrics.collect = self._collect
        return SharedServices(
            services.dataplane, services.metrics, tokens, regions, counters, services.io, services.tracing
        )  # fmt: skip

    def _front_ends(
        self, address: Address, ports: Collection[Port], services: Services, front: SharedServices, pem: bytes
    ) -> FrontEnds:
        """Several processes that answer the inference address, and the application for what they relay."""
        settings, count = services.settings, services.settings.front_ends
        app, plans = build(ports, services, self.admission, self._shared)
        relay = RelayListener(app, address, plans=plans, inline=ALIVE, io=services.io, **listener_options(ports, settings))
        return FrontEnds(FrontendSpec(settings, front, relay, pem, fronts=front.counters.fronts), count)

    def _grpc(self, services: Services, front: SharedServices, held: list[socket.socket]) -> FrontEnds:
        return grpc.listener(
            services.settings, front, controls(services, self._shared), self.grpc_addresses, held,
            _fronts(services.settings), front.counters.fronts,
        )  # fmt: skip

    def _trace(self) -> None:
        """Has every process trace by the settings that hold now. Threads: any."""
        with self._telling:
            rules = self._traces.rules()
            self._tracing.apply(rules)
            for listener in self.listeners:
                if isinstance(listener, FrontEnds):
                    listener.trace(rules)

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
        found: list[tuple[str, Address]] = [
            (port, self.address(port)) for port in PORTS if any(port in listener.ports for listener in self.listeners)
        ]
        return found if self._second is None else [*found, ("KServe", self._second.address)]

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
