"""The gRPC servers of one front end, all on one event loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from ...core.errors import JitneyError
from ..settings.settings import Settings
from .calls import Services
from .draining import Bound
from .open_calls import OpenCalls
from .options import credentials, options
from .torchserve import service as torchserve
from .triton import service as triton

#: Calls that one server has under way beyond those that may wait for models: health, metadata, repository, streams.
BESIDES = 256


class Router(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call by its path; what there is not ends with UNIMPLEMENTED and the service's text for that."""

    def __init__(self, handlers: Mapping[str, Any], calls: OpenCalls, unknown: str = "") -> None:
        self._handlers = {path: calls.counted(path, handler) for path, handler in handlers.items()}
        self._calls, self._unknown = calls, unknown

    def service(self, handler_call_details: Any) -> Any:
        path: str = handler_call_details.method
        found = self._handlers.get(path)
        if found is not None:
            return found
        text = self._unknown.format(path.removeprefix("/"))

        async def refuse(requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

        return self._calls.counted(path, grpc.stream_stream_rpc_method_handler(refuse))


def _router(services: Services, service: str) -> Router:
    if service == "triton":
        return Router(triton.handlers(services), services.calls)
    found = torchserve.inference_handlers if service == "inference" else torchserve.management_handlers
    return Router(found(services), services.calls, torchserve.UNKNOWN)


def places(settings: Settings) -> int:
    """Calls that one server has under way at most."""
    return settings.max_waiting + BESIDES


def servers(services: Services) -> list[Bound]:
    """A server for each address of the settings, bound and not started. InvalidConfig where TLS is not as it has to be."""
    found = []
    for address in services.settings.grpc_addresses:
        router = _router(services, address.service)
        server = grpc.aio.server(
            handlers=[router],
            options=options(services.settings, address.service),
            maximum_concurrent_rpcs=places(services.settings),
        )
        secure = credentials(services.settings, address.service)
        at = str(address)
        try:
            port = server.add_secure_port(at, secure) if secure else server.add_insecure_port(at)
        except RuntimeError as error:
            raise JitneyError(f"{address.setting}={address} cannot be opened: {error}") from None
        if port != address.port:
            raise JitneyError(f"{address.setting}={address} cannot be opened")
        found.append(Bound(server, port, secure is not None))
    return found
