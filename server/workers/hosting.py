"""What models ask of the server while they run: other models (Triton's BLS), loading and unloading. Server side."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

from ...backends.base import Failure, Request, Response
from .. import errors
from . import wire
from .child import Child
from .messages import HostCall, HostReply

log = logging.getLogger(__name__)

#: Calls of one pool's workers that run at the same time; more wait.
_THREADS = 8

_CODES: tuple[tuple[type[errors.JitneyError], str], ...] = (
    (errors.InvalidRequest, "INVALID_ARG"),
    (errors.ModelNotFound, "NOT_FOUND"),
    (errors.VersionNotFound, "NOT_FOUND"),
    (errors.ModelNotReady, "UNAVAILABLE"),
    (errors.Unavailable, "UNAVAILABLE"),
    (errors.Unsupported, "UNSUPPORTED"),
    (errors.AlreadyRegistered, "ALREADY_EXISTS"),
    (errors.Cancelled, "CANCELLED"),
)


class HostServer(Protocol):
    """The server, as models may use it. Called on threads of the pool; `JitneyError`s reach the model as its errors."""

    def infer(self, model: str, version: str, request: Request, timeout_s: float | None) -> Iterator[Response]:
        """Runs a request, `version` "" = the served default; yields its responses up to the final one.

        Where the iterator is `Cancellable`, it is told from another thread when nobody listens any more.
        """

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        """Runs "load", "unload" or "is_ready"; returns plain data."""


def failure_of(error: Exception) -> Failure:
    """What the asking model hears about an error of the server."""
    if isinstance(error, errors.ModelFailed):
        return Failure(str(error), error.code, error.status, error.by_model)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL")
    return Failure(str(error) if isinstance(error, errors.JitneyError) else f"{type(error).__name__}: {error}", code)


@runtime_checkable
class Cancellable(Protocol):
    """Responses that a thread may be waiting for: `cancel` ends the waiting, whenever and however often it is called."""

    def cancel(self) -> None: ...


class _Asked:
    """One call of a worker, from its arrival to its last reply."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self.is_cancelled = self._cancelled.is_set
        self._responses: object = None

    def answered_by(self, responses: Iterator[Response]) -> Iterator[Response]:
        self._responses = responses
        if self.is_cancelled():
            self.cancel()
        return responses

    def cancel(self) -> None:
        self._cancelled.set()
        if isinstance(self._responses, Cancellable):
            self._responses.cancel()


class _Gone(Exception):
    """The worker that asked is no longer there."""


class HostDesk:
    """Runs the calls of one pool's workers, on threads that exist only once a model asks for something."""

    def __init__(self, server: HostServer | None, name: str) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"jitney-{name}-host")
        self._running: dict[tuple[Child, int], _Asked] = {}

    # ---- reading threads of the workers

    def accept(self, child: Child, call: HostCall) -> None:
        """Queues a call; its replies go to `child`."""
        asked = self._running[child, call.call] = _Asked()
        try:
            self._threads.submit(self._serve, child, call, asked)
        except RuntimeError:  # closed: the worker is about to stop as well
            self._running.pop((child, call.call), None)

    def cancel(self, child: Child, number: int) -> None:
        """The model wants no more of this call."""
        asked = self._running.get((child, number))
        if asked is not None:
            asked.cancel()

    def forget(self, child: Child) -> None:
        """The worker ended: so do its calls."""
        for key, asked in list(self._running.items()):
            if key[0] is child:
                asked.cancel()

    def close(self) -> None:
        """Waits for the running calls and drops those that wait."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ---- threads of the desk

    def _serve(self, child: Child, call: HostCall, asked: _Asked) -> None:
        try:
            if asked.is_cancelled():
                return
            if self._server is None:
                raise errors.Unsupported("this server offers no other models to models")
            if call.verb == "infer":
                self._infer(self._server, child, call, asked)
            else:
                value = self._server.control(call.verb, call.model, call.arguments)
                self._reply(child, HostReply(call.call, value=value))
        except _Gone:
            asked.cancel()
        except Exception as error:
            if not isinstance(error, errors.JitneyError):
                log.exception("worker '%s' asked for '%s' of model '%s'", child.name, call.verb, call.model)
            self._refuse(child, call, error)
        finally:
            self._running.pop((child, call.call), None)

    def _infer(self, server: HostServer, child: Child, call: HostCall, asked: _Asked) -> None:
        if call.request is None:
            raise errors.InvalidRequest("infer without a request")
        request = wire.request_from_wire(call.request, wire.by_value)
        request.is_cancelled = asked.is_cancelled
        for response in asked.answered_by(server.infer(call.model, call.version, request, call.timeout_s)):
            if asked.is_cancelled():
                return
            message = wire.response_to_wire(response, wire.inline)
            self._reply(child, HostReply(call.call, response=message, final=response.final))
            if response.final:
                return
        raise errors.ModelFailed(f"model '{call.model}' ended without a final response")

    def _refuse(self, child: Child, call: HostCall, error: Exception) -> None:
        try:
            self._reply(child, HostReply(call.call, error=failure_of(error)))
        except _Gone:
            pass

    def _reply(self, child: Child, reply: HostReply) -> None:
        try:
            child.send(reply)
        except OSError:
            raise _Gone from None
