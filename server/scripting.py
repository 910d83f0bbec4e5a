"""Models that use other models of the same server (Triton's business logic scripting): the server's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..backends.base import Request, Response
from .dataplane import DataPlane
from .errors import InvalidRequest, QueueTimeout


class Scripting:
    """What a worker may ask of the server. Called on threads of its pool."""

    def __init__(self, dataplane: DataPlane) -> None:
        self.dataplane = dataplane

    def infer(self, model: str, version: str, request: Request, timeout_s: float | None) -> Iterator[Response]:
        """Runs a request on another model; yields its responses up to the final one."""
        call = self.dataplane.infer(model, version or None, request)
        try:
            yield from call.stream(timeout_s)
        except TimeoutError:
            raise QueueTimeout(f"model '{model}' did not answer within {timeout_s:g} s") from None
        finally:
            call.cancel()  # only if the asking model stopped listening before the end

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        """Runs "load", "unload" or "is_ready"."""
        match verb:
            case "is_ready":
                return self.dataplane.model_ready(model, str(arguments.get("version", "")) or None)
            case "load":
                self.dataplane.load(model, arguments.get("config") or None, arguments.get("files") or None)
            case "unload":
                self.dataplane.unload(model, bool(arguments.get("unload_dependents")))
            case _:
                raise InvalidRequest(f"unknown verb '{verb}', expected load, unload or is_ready")
        return None
