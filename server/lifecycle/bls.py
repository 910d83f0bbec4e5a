"""Models that use other models of the same server (Triton's business logic scripting): the server's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...core.call import Call
from ...core.errors import InvalidRequest, JitneyError
from ...core.request import Request, Response
from ..serving.dataplane import DataPlane
from .control_plane import ControlPlane


class Answers(Iterator[Response]):
    """A call's responses up to the final one: `workers.host_calls.Awaited`."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ended = False

    def __next__(self) -> Response:
        if self._ended:
            raise StopIteration
        response = self._call.result()
        self._ended = response.final
        return response

    def cancel(self, error: JitneyError | None = None) -> None:
        self._call.cancel(error)

    @property
    def underway(self) -> bool:
        return self._call.underway


class BlsHost:
    """What a worker may ask of the server. Called on threads of its pool."""

    def __init__(self, dataplane: DataPlane, control: ControlPlane) -> None:
        self._dataplane, self._control = dataplane, control

    def infer(self, model: str, version: str, request: Request) -> Iterator[Response]:
        """Runs a request on another model; yields its responses up to the final one."""
        return Answers(self._dataplane.infer(model, version or None, request))

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        """Runs "load", "unload" or "is_ready"."""
        match verb:
            case "is_ready":
                return self._dataplane.model_ready(model, str(arguments.get("version", "")) or None)
            case "load":
                self._control.repository.load(model, arguments.get("config") or None, arguments.get("files") or None)
            case "unload":
                self._control.repository.unload(model, bool(arguments.get("unload_dependents")))
            case _:
                raise InvalidRequest(f"unknown verb '{verb}', expected load, unload or is_ready")
        return None
