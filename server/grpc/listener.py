"""gRPC as the scheduler sees it: ports that are reserved before any model loads, and front ends that answer there.

Each front end opens the ports itself, with SO_REUSEPORT, so the kernel spreads connections over them. So that no other server
shares a port by accident, the scheduler first asks for it alone, and then holds it, without listening, as long as it serves.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import socket
from collections.abc import Mapping
from dataclasses import replace

from ..frontends.frontend_process import FrontendSpec
from ..frontends.queries import SharedServices
from ..frontends.supervisor import FrontEnds
from ..http.engine.listener import AddressInUse
from ..settings.grpc import GrpcAddress, with_ports
from ..settings.settings import Settings
from .control import Control, ControlAnswerer
from .tls import pem

log = logging.getLogger(__name__)

INSTALL = "pip install 'jitney[grpc]'"
_MODULE = f"{__package__}.front_end"


class GrpcListener(FrontEnds):
    """A listener's verbs for all gRPC front ends together."""

    def __init__(self, spec: FrontendSpec, count: int, bound: list[GrpcAddress]) -> None:
        super().__init__(spec, count)
        self.bound = bound


def is_installed() -> bool:
    """Whether the package is there that gRPC needs."""
    return importlib.util.find_spec("grpc") is not None


def served(settings: Settings) -> tuple[list[GrpcAddress], list[socket.socket]]:
    """Where gRPC will be served, each address with a socket that holds it; nowhere, and a line in the log, where it cannot be.

    AddressInUse where gRPC was asked for and a port is taken; InvalidConfig where TLS is not as it has to be.
    """
    wanted = settings.grpc_addresses
    if not wanted:
        log.info("gRPC is not served, as --allow-grpc or allow_grpc says")
        return [], []
    ports = ", ".join(str(address) for address in wanted)
    if not is_installed():
        level = logging.WARNING if settings.grpc.is_asked_for else logging.INFO
        log.log(level, "gRPC is not served (%s), HTTP is: it needs a package more, %s", ports, INSTALL)
        return [], []
    for address in wanted:
        pem(settings, address.service)  # what is wrong with it is to end the start, and not a front end
    held: list[socket.socket] = []
    try:
        for address in wanted:
            held.append(reserve(address))  # noqa: PERF401 - those before one that is taken are closed
    except AddressInUse as error:
        for sock in held:
            sock.close()
        if settings.grpc.is_asked_for:
            raise
        log.warning("gRPC is not served: %s, or say --allow-grpc=false", error)
        return [], []
    bound = [replace(at, port=sock.getsockname()[1]) for at, sock in zip(wanted, held, strict=True)]
    return bound, held


def reserve(address: GrpcAddress) -> socket.socket:
    """A socket that holds an address and does not listen; AddressInUse where it has another owner."""
    try:
        family, kind, proto, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
            alone.listen(1)  # only now the system says that another one listens
            where = (where[0], alone.getsockname()[1], *where[2:])
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
    except OSError as error:
        reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror or error}"
        raise AddressInUse(f"{address.setting}={address}: the address {reason}; choose another {address.setting}") from None
    return sock


def listener(
    settings: Settings, shared: SharedServices, controls: Mapping[str, Control], bound: list[GrpcAddress],
    held: list[socket.socket], first: int, fronts: int, pem: bytes = b"",
) -> GrpcListener:  # fmt: skip
    """The front ends of these addresses. `first`, `fronts`: see `FrontendSpec`."""
    count = settings.grpc.front_ends
    known = replace(settings, grpc=with_ports(settings.grpc, bound))
    relay = ControlAnswerer(controls, held, count)
    spec = FrontendSpec(known, shared, relay, pem, kind="grpc", module=_MODULE, first=first, fronts=fronts)
    return GrpcListener(spec, count, bound)
