"""The line of a gRPC call in the access log: as an HTTP request's, with the id of the request and its client's trace."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import unquote

import grpc

from ..process.log_format import about

access_log = logging.getLogger("jitney.access")

Context = Any


def is_written() -> bool:
    """Whether the access log is."""
    return access_log.isEnabledFor(logging.INFO)


def write(context: Context, path: str, peer: str, began: float, request_id: str) -> None:
    """Writes the line of a call that is over. `peer` as grpcio names it, `began` in monotonic seconds."""
    code, client, name = context.code(), unquote(peer).partition(":")[2], path.removeprefix("/")
    status = code.name if isinstance(code, grpc.StatusCode) else "CANCELLED" if context.cancelled() else "OK"
    took = time.monotonic() - began
    fields = {"client": client, "method": "gRPC", "path": name, "protocol": "HTTP/2.0", "status": status}
    told = about(request_id, traceparent_of(context), **fields, ms=round(took * 1000, 3))
    access_log.info('/%s "gRPC %s HTTP/2.0" %s %d', client, name, status, int(took * 1000), extra=told)


def traceparent_of(context: Context) -> str:
    """The client's span, "" where it sent none."""
    found = (
        value for name, value in context.invocation_metadata() or () if name == "traceparent" and isinstance(value, str)
    )
    return next(found, "")
