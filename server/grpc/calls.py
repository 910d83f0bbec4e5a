"""What all gRPC services of a front end share: its data plane, and calls that end exactly once with an answer or a status."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import grpc

from ...core import holding
from ...core.call import Call, only, size
from ...core.errors import JitneyError
from ...core.request import Response
from ...core.window import Window
from ..process.log_format import about
from ..tracing.record import Front
from ..tracing.sampling import Tracing
from .access_line import traceparent_of
from .control import reason_of
from .open_calls import OpenCalls

if TYPE_CHECKING:
    from ..http.kserve.shm import ClientRegions
    from ..http.middleware.admission import Places
    from ..http.middleware.tokens import Keys
    from ..metrics.request_counters import RequestMetrics
    from ..serving.inference_plane import InferencePlane
    from ..settings.settings import Settings
    from .relay import Relay

log = logging.getLogger(__name__)

INTERNAL = "internal error, see the server's log"
Context = Any
StatusOf = Callable[[JitneyError], tuple[str, str]]


class Draining(Protocol):
    """An open stream, which may be idle for as long as its client likes."""

    def drain(self) -> None:
        """Has it end when what it accepted is answered."""


@dataclass(frozen=True)
class Services:
    """What the calls of one front end work with. `tokens` None: no call needs a key."""

    dataplane: InferencePlane
    regions: ClientRegions
    places: Places
    relay: Relay
    settings: Settings
    tokens: Keys | None
    metrics: RequestMetrics
    streams: set[Draining] = field(default_factory=set)  # that are open
    tracing: Tracing = field(default_factory=Tracing)
    calls: OpenCalls = field(default_factory=OpenCalls)

    def traced(
        self, context: Context, path: str, began: int, call: Call, status_of: StatusOf, answer: Response | None = None
    ) -> None:
        """Has a request traced that is over, if its turn has come or its client traces it. `began`: monotonic nanoseconds."""
        if not self.tracing.rules:
            return
        sent = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        parent = sent.get("traceparent", "")
        found = self.tracing.choose(call.config.name if call.config is not None else "", parent)
        if found is not None:
            peer, status = (
                unquote(context.peer()).partition(":")[2],
                "OK" if call.error is None else status_of(call.error)[0],
            )
            front = Front("grpc", path.removeprefix("/"), "", peer, status, began, time.monotonic_ns(), parent)
            front.state = sent.get("tracestate", "")
            self.tracing.take(front, *found, call, answer)

    @contextmanager
    def place(self, nbytes: int) -> Iterator[None]:
        """Holds a place among the requests that wait, and what came in. Raises QueueFull or HoldsTooMuch."""
        self.places.enter()
        counted = nbytes if nbytes > holding.COUNTED else 0
        try:
            if counted and not holding.process.take(counted):
                counted = 0
                raise holding.process.refusal()
            yield
        finally:
            self.places.leave()
            if counted:
                holding.process.give(counted)


class Awaited:
    """The answers to one request, on their way to the coroutine that waits for them. `on_answer` is for any thread."""

    def __init__(self) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._answers: list[Response | JitneyError] = []
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._unread = holding.Pile()
        self._window: Window | None = None

    def on_answer(self, answer: Response | JitneyError) -> None:
        """`Call.on_answer`."""
        if threading.get_ident() == self._thread:
            self._take(answer)
        else:
            self._loop.call_soon_threadsafe(self._take, answer)

    def _take(self, answer: Response | JitneyError) -> None:
        if isinstance(answer, Response) and not answer.final:
            self._unread.put(size(answer))
        self._answers.append(answer)
        if not self._news.done():
            self._news.set_result(None)

    def pace(self, call: Call) -> None:
        """Has the answers come as `stream` is asked for them."""
        self._window = call.window
        if self._window is not None:
            self._window.by_client = True

    async def stream(self) -> AsyncIterator[Response]:
        """All responses, the final one last; raises the request's error."""
        while True:
            await self._news
            self._news = self._loop.create_future()
            answers, self._answers = self._answers, []
            for answer in answers:
                if isinstance(answer, JitneyError):
                    raise answer
                if not answer.final:
                    self._unread.take(size(answer))
                yield answer
                if answer.final:
                    return
                if self._window is not None:
                    self._window.took(size(answer))

    async def only(self) -> Response:
        """The response of a model that gives one; raises the request's error."""
        return only([response async for response in self.stream()])


async def abort(context: Context, error: Exception, status_of: StatusOf, method: str, request_id: str = "") -> None:
    """Ends a call with the status that an error is; does not return."""
    if isinstance(error, JitneyError):
        status, text = status_of(error)
        reason = reason_of(error)
    else:
        log.error("%s failed", method, exc_info=error, extra=about(request_id, traceparent_of(context)))
        status, text, reason = "INTERNAL", INTERNAL, ""
    await context.abort(grpc.StatusCode[status], text, reason_metadata("" if reason in text else reason))


def reason_metadata(reason: str) -> tuple[tuple[str, str], ...]:
    """The metadata in which the reason of an error comes where the original's text does not say it."""
    text = " ".join(reason.split()).encode("ascii", "backslashreplace").decode()[:1024]
    return (("x-jitney-reason", text),) if text else ()
