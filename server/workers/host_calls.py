"""What models ask of the server while they run: other models (Triton's BLS), loading and unloading. Server side."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

from ...core import errors
from ...core.request import Failure, Request, Response
from ..ipc import wire
from .messages import HostCall, HostReply
from .worker_process import WorkerProcess

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

    def infer(self, model: str, version: str, request: Request) -> Iterator[Response]:
        """Runs a request, `version` "" = the served default; yields its responses up to the final one.

        Where the iterator is `Awaited`, it is told from another thread when its worker no longer listens.
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
class Awaited(Protocol):
    """Responses that a thread may be waiting for. Both from any thread.

    `cancel` ends the waiting, whenever and however often it is called, with `error` where there is one.
    `underway`: whether a worker is at it, whose own limit will end it.
    """

    def cancel(self, error: errors.JitneyError | None = None) -> None: ...

    @property
    def underway(self) -> bool: ...


class _Asked:
    """One call of a worker, from its arrival to its last reply. `heard`: monotonic seconds of its arrival,
    its latest reply, or the latest look at which it was underway."""

    def __init__(self, verb: str) -> None:
        self.verb, self.heard = verb, time.monotonic()
        self.error: errors.JitneyError | None = None
        self._cancelled = threading.Event()
        self.is_cancelled = self._cancelled.is_set
        self._responses: object = None

    @property
    def underway(self) -> bool:
        """Whether it is being worked at. Loading and unloading always are: they have limits of their own."""
        return self.verb != "infer" or (isinstance(self._responses, Awaited) and self._responses.underway)

    def over(self) -> bool:
        """Whether its worker no longer listens; raises the error that ended it where there is one."""
        if self.error is not None:
            raise self.error
        return self.is_cancelled()

    def answered_by(self, responses: Iterator[Response]) -> Iterator[Response]:
        self._responses = responses
        if self.is_cancelled():
            self.cancel(self.error)
        return responses

    def cancel(self, error: errors.JitneyError | None = None) -> None:
        self.error = self.error or error
        self._cancelled.set()
        if isinstance(self._responses, Awaited):
            self._responses.cancel(error)


class _Gone(Exception):
    """The worker that asked is no longer there."""


class HostCalls:
    """Runs the calls of one pool's workers, on threads that exist only once a model asks for something."""

    def __init__(self, server: HostServer | None, name: str) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"jitney-{name}-host")
        self._running: dict[tuple[WorkerProcess, int], _Asked] = {}

    # ---- reading threads of the workers

    def accept(self, child: WorkerProcess, call: HostCall) -> None:
        """Queues a call; its replies go to `child`."""
        asked = self._running[child, call.call] = _Asked(call.verb)
        try:
            self._threads.submit(self._serve, child, call, asked)
        except RuntimeError:  # closed: the worker is about to stop as well
            self._running.pop((child, call.call), None)

    def cancel(self, child: WorkerProcess, number: int) -> None:
        """The model wants no more of this call."""
        asked = self._running.get((child, number))
        if asked is not None:
            asked.cancel()

    def forget(self, child: WorkerProcess) -> None:
        """The worker ended: so do its calls."""
        for key, asked in list(self._running.items()):
            if key[0] is child:
                asked.cancel()

    # ---- supervising thread

    def excused(self, child: WorkerProcess, limit_s: float) -> float | None:
        """The instant up to which a worker may be silent because it waits, or just waited, for the server; None: no longer.

        While another worker is at what it asked for, that worker's limit counts. What has only waited for a worker for
        `limit_s` ends with an error, so that models that wait for each other in a circle do not wait for ever.
        """
        now = time.monotonic()
        asked = [other for key, other in list(self._running.items()) if key[0] is child]
        underway = [other for other in asked if other.underway]
        for other in underway:
            other.heard = now  # an ensemble's next step may have to wait: from then on, not from its arrival
        if underway:
            return now + limit_s
        for other in asked:
            if not other.is_cancelled() and now - other.heard >= limit_s:
                other.cancel(errors.QueueTimeout(f"no worker took the request within {limit_s:g} s"))
                other.heard = now
        heard = max((*(other.heard for other in asked), child.heard))
        return heard + limit_s if heard + limit_s > now else None

    # ---- any thread

    def close(self) -> None:
        """Waits for the running calls and drops those that wait."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    # ---- its own threads

    def _serve(self, child: WorkerProcess, call: HostCall, asked: _Asked) -> None:
        try:
            if asked.over():
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

    def _infer(self, server: HostServer, child: WorkerProcess, call: HostCall, asked: _Asked) -> None:
        if call.request is None:
            raise errors.InvalidRequest("infer without a request")
        request = wire.request_from_wire(call.request, wire.by_value)
        request.is_cancelled = asked.is_cancelled
        for response in asked.answered_by(server.infer(call.model, call.version, request)):
            if asked.over():
                return
            asked.heard = time.monotonic()
            message = wire.response_to_wire(response, wire.inline)
            self._reply(child, HostReply(call.call, response=message, final=response.final))
            if response.final:
                return
        raise errors.ModelFailed(f"model '{call.model}' ended without a final response")

    def _refuse(self, child: WorkerProcess, call: HostCall, error: Exception) -> None:
        try:
            self._reply(child, HostReply(call.call, error=failure_of(error)))
        except _Gone:
            pass

    def _reply(self, child: WorkerProcess, reply: HostReply) -> None:
        child.heard = time.monotonic()
        try:
            child.send_whole(reply)
        except OSError:
            raise _Gone from None
