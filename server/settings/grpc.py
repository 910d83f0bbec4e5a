"""What concerns gRPC: the keys of config.properties, and the settings that come of them. Pure.

Triton's are tritonserver's options with underscores; TorchServe's are those of its config.properties. Times of both are in
milliseconds, as they are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .addresses import is_local_host
from .restrictions import Restrictions

TRITON_PORT, INFERENCE_PORT, MANAGEMENT_PORT = 8001, 7070, 7071


@dataclass(frozen=True)
class GrpcSettings:
    """Which gRPC ports are served, and how. Times in milliseconds; 0 of an age = any time.

    A line for each field, as in `Settings`.

    allow  whether gRPC is served; not said = where the package grpcio is installed and the ports are free
    address  address of Triton's service
    port  port of Triton's service; not given = 8001, where a model repository is served
    inference_address  address of TorchServe's inference service
    inference_port  its port; not given = 7070, where a model store is served
    management_address  address of TorchServe's management service
    management_port  its port; not given = 7071, where a model store is served
    front_ends  processes that answer gRPC
    use_ssl  whether Triton's service speaks TLS, with grpc_server_cert and grpc_server_key
    use_ssl_mutual  whether its clients show a certificate that grpc_root_cert signed
    server_cert  certificate and chain of Triton's service, PEM
    server_key  its private key, PEM
    root_cert  certificates that clients' are signed by, PEM
    torchserve_ssl  whether TorchServe's services speak TLS, with certificate_file and private_key_file
    keepalive_time  time without data after which a client is pinged
    keepalive_timeout  time that it has to answer
    keepalive_permit_without_calls  whether it is pinged also where no call is under way
    max_pings_without_data  pings that are sent without data between them
    min_recv_ping_interval_without_data  shortest time between a client's pings
    max_ping_strikes  pings that may come too soon before the connection is closed
    max_connection_age  how long a connection to Triton's service may last
    max_connection_age_grace  how long its calls may go on then
    inference_connection_age  how long a connection to TorchServe's inference service may last
    inference_connection_age_grace  how long its calls may go on then
    management_connection_age  how long a connection to TorchServe's management service may last
    management_connection_age_grace  how long its calls may go on then
    compression  how much answers are compressed
    restricted  group of calls -> metadata key and value that its calls need, without tritonserver's prefix
    forward_pattern  regular expression: matching metadata becomes parameters of requests, "" = none
    """

    allow: bool | None = None
    address: str = "127.0.0.1"
    port: int | None = None
    inference_address: str = "127.0.0.1"
    inference_port: int | None = None
    management_address: str = "127.0.0.1"
    management_port: int | None = None
    front_ends: int = 1
    use_ssl: bool = False
    use_ssl_mutual: bool = False
    server_cert: str = ""
    server_key: str = ""
    root_cert: str = ""
    torchserve_ssl: bool = False
    keepalive_time: int = 7_200_000
    keepalive_timeout: int = 20_000
    keepalive_permit_without_calls: bool = False
    max_pings_without_data: int = 2
    min_recv_ping_interval_without_data: int = 300_000
    max_ping_strikes: int = 2
    max_connection_age: int = 0
    max_connection_age_grace: int = 0
    inference_connection_age: int = 0
    inference_connection_age_grace: int = 0
    management_connection_age: int = 0
    management_connection_age_grace: int = 0
    compression: str = "none"
    restricted: Restrictions = field(default_factory=dict)
    forward_pattern: str = ""

    @property
    def is_asked_for(self) -> bool:
        """Whether a setting says that gRPC is to be served: then what stands in its way ends the start."""
        return self.allow is True or (self.allow is None and any(port is not None for port in self._ports))

    @property
    def _ports(self) -> tuple[int | None, int | None, int | None]:
        return self.port, self.inference_port, self.management_port


#: The keys, and the fields that they fill.
FIELDS = {
    "allow_grpc": "allow",
    "grpc_address": "address",
    "grpc_port": "port",
    "grpc_front_ends": "front_ends",
    "grpc_use_ssl": "use_ssl",
    "grpc_use_ssl_mutual": "use_ssl_mutual",
    "grpc_server_cert": "server_cert",
    "grpc_server_key": "server_key",
    "grpc_root_cert": "root_cert",
    "grpc_keepalive_time": "keepalive_time",
    "grpc_keepalive_timeout": "keepalive_timeout",
    "grpc_keepalive_permit_without_calls": "keepalive_permit_without_calls",
    "grpc_http2_max_pings_without_data": "max_pings_without_data",
    "grpc_http2_min_recv_ping_interval_without_data": "min_recv_ping_interval_without_data",
    "grpc_http2_max_ping_strikes": "max_ping_strikes",
    "grpc_max_connection_age": "max_connection_age",
    "grpc_max_connection_age_grace": "max_connection_age_grace",
    "grpc_infer_response_compression_level": "compression",
    "grpc_restricted_protocol": "restricted",
    "grpc_header_forward_pattern": "forward_pattern",
    "grpc_inference_address": "inference_address",
    "grpc_inference_port": "inference_port",
    "grpc_management_address": "management_address",
    "grpc_management_port": "management_port",
    "grpc_inference_max_connection_age_ms": "inference_connection_age",
    "grpc_inference_max_connection_age_grace_ms": "inference_connection_age_grace",
    "grpc_management_max_connection_age_ms": "management_connection_age",
    "grpc_management_max_connection_age_grace_ms": "management_connection_age_grace",
    "enable_grpc_ssl": "torchserve_ssl",
}


def take(values: dict[str, Any]) -> GrpcSettings:
    """The settings out of the values of all keys, which are taken out of `values`."""
    return GrpcSettings(**{name: values.pop(key) for key, name in FIELDS.items() if key in values})


@dataclass(frozen=True)
class GrpcAddress:
    """Where one gRPC server listens. `service` names who is spoken to; `setting` is the key that errors name."""

    service: str
    host: str
    port: int
    setting: str

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_local_host(self.host)

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def addresses(grpc: GrpcSettings, *, triton: bool, torchserve: bool) -> list[GrpcAddress]:
    """Where gRPC is to be served: Triton's service beside a repository's models, TorchServe's beside a store's archives.

    One that is not said to belong here is served too where its port is given.
    """
    if grpc.allow is False:
        return []
    found = []
    if triton or grpc.port is not None:
        found.append(GrpcAddress("triton", grpc.address, _or(grpc.port, TRITON_PORT), "grpc_port"))
    if torchserve or grpc.inference_port is not None:
        port = _or(grpc.inference_port, INFERENCE_PORT)
        found.append(GrpcAddress("inference", grpc.inference_address, port, "grpc_inference_port"))
    if torchserve or grpc.management_port is not None:
        port = _or(grpc.management_port, MANAGEMENT_PORT)
        found.append(GrpcAddress("management", grpc.management_address, port, "grpc_management_port"))
    return found


def with_ports(grpc: GrpcSettings, bound: Iterable[GrpcAddress]) -> GrpcSettings:
    """The settings with the ports where each service listens in fact."""
    ports = {address.service: address.port for address in bound}
    return replace(
        grpc,
        port=ports.get("triton", grpc.port),
        inference_port=ports.get("inference", grpc.inference_port),
        management_port=ports.get("management", grpc.management_port),
    )


def _or(port: int | None, default: int) -> int:
    return default if port is None else port
