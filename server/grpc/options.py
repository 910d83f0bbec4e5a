"""Options and credentials of gRPC servers, from the settings. tritonserver's flags have gRPC's own names for these."""

from __future__ import annotations

from typing import Any

import grpc

from ..settings.grpc import GrpcSettings
from ..settings.settings import Settings
from .tls import pem

#: Level of compressed answers -> gRPC's number; the algorithm is one that the client takes.
_LEVELS = {"none": 0, "low": 1, "medium": 2, "high": 3}
#: Bytes of all metadata of a call.
_MAX_METADATA = 64 << 10
#: Calls that grpcio has read and the event loop has not taken yet. Beyond grpcio's own 1,000 it cancels calls at random, honest
#: clients' too, while the loop works off a flood of calls that were reset long ago.
_MAX_PENDING = 1 << 15


def options(settings: Settings, service: str) -> list[tuple[str, Any]]:
    """The options of the server of "triton", "inference" or "management"."""
    given = settings.grpc
    found: dict[str, Any] = {
        "grpc.so_reuseport": 1,
        "grpc.max_receive_message_length": settings.max_request_size,
        "grpc.max_send_message_length": -1,
        "grpc.max_metadata_size": _MAX_METADATA,
        "grpc.absolute_max_metadata_size": _MAX_METADATA,
        "grpc.max_concurrent_streams": max(settings.max_waiting, 100),
        "grpc.server.max_pending_requests": _MAX_PENDING,
        "grpc.server.max_pending_requests_hard_limit": _MAX_PENDING,
    }
    if service == "triton":
        found |= _keepalive(given)
        if given.compression != "none":
            found["grpc.default_compression_level"] = _LEVELS[given.compression]
    found |= _ages(given, service)
    return list(found.items())


def _keepalive(given: GrpcSettings) -> dict[str, Any]:
    return {
        "grpc.keepalive_time_ms": given.keepalive_time,
        "grpc.keepalive_timeout_ms": given.keepalive_timeout,
        "grpc.keepalive_permit_without_calls": int(given.keepalive_permit_without_calls),
        "grpc.http2.max_pings_without_data": given.max_pings_without_data,
        "grpc.http2.min_recv_ping_interval_without_data_ms": given.min_recv_ping_interval_without_data,
        "grpc.http2.max_ping_strikes": given.max_ping_strikes,
    }


def _ages(given: GrpcSettings, service: str) -> dict[str, Any]:
    ages = {
        "triton": (given.max_connection_age, given.max_connection_age_grace),
        "inference": (given.inference_connection_age, given.inference_connection_age_grace),
        "management": (given.management_connection_age, given.management_connection_age_grace),
    }
    age, grace = ages[service]
    found = {"grpc.max_connection_age_ms": age, "grpc.max_connection_age_grace_ms": grace}
    return {name: value for name, value in found.items() if value}


def credentials(settings: Settings, service: str) -> grpc.ServerCredentials | None:
    """TLS as the settings say, None without it; InvalidConfig names the key whose file is of no use."""
    found = pem(settings, service)
    if found is None:
        return None
    return grpc.ssl_server_credentials([(found.key, found.chain)], found.roots, found.roots is not None)
