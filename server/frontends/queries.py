"""What a front end asks the scheduler about itself, and what sessions share to answer it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...core.errors import JitneyError, Unavailable
from ..http.kserve.shm import ClientRegions
from ..http.middleware.tokens import Tokens
from ..ipc.io_context import IoContext
from ..tracing.sampling import Tracing
from .error_codec import error_to_wire
from .messages import Query, QueryReply, RegionFile
from .shared_counters import SharedCounters

if TYPE_CHECKING:
    from ..metrics import Metrics
    from ..serving.dataplane import DataPlane

log = logging.getLogger(__name__)

UNFORESEEN = "internal error, see the server's log"


@dataclass(frozen=True)
class SharedServices:
    """What all sessions share."""

    dataplane: DataPlane
    metrics: Metrics
    tokens: Tokens | None
    regions: ClientRegions
    counters: SharedCounters
    io: IoContext
    tracing: Tracing = field(default_factory=Tracing)


def told(query: Query, shared: SharedServices) -> QueryReply:
    """The answer to a question, or the error that it is."""
    reply = QueryReply(query.number)
    try:
        _find(query, shared, reply)
    except JitneyError as error:
        reply.error = error_to_wire(error)
    except Exception:
        log.exception("a front end's question failed")
        reply.error = error_to_wire(Unavailable(UNFORESEEN))
    return reply


def _find(query: Query, shared: SharedServices, reply: QueryReply) -> None:
    if query.what == "config":
        model, *version = query.arguments
        reply.config = shared.dataplane.config(model, version[0] if version else None)
    elif query.what == "keys":
        reply.keys = dict(shared.tokens.keys) if shared.tokens is not None else {}
    else:
        region = shared.regions.find(*query.arguments)
        if region is not None:
            file = os.fstat(region.fd)
            reply.region = RegionFile(region.key, region.offset, region.byte_size, region.fd, file.st_dev, file.st_ino)
