"""`Rounds`: TorchServe's continuous batching, for handlers whose `model-config.yaml` has `continuousBatching: true`.

The handler is asked again and again, each time for all requests that are in flight, in the order of their arrival. A request
joins between two rounds and is given with its data once; after that its row is `{}` and its headers are as before
(`ModelRequestEncoder.encodeRequest`): what the handler needs of it, it keeps, usually in `context.cache` under the request's id.

What it returns is one piece of each answer. `context.stopping_criteria`, which the handler sets, has a function for each request
that is given the piece and tells whether it is the last: True = yes, False = no, None = as the handler's own header
`ts_stream_next` says (`create_predict_response`). Without criteria each piece is a whole answer. A request leaves with its last
piece, with an error, or because its client has gone; the handler sees that by its id, which is missing from then on.

A round that raises fails the requests that were in flight, and the next one begins with those that came meanwhile.
"""

from __future__ import annotations

import logging
import queue
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import msgspec

from ..core.request import Failure, Request, Respond, Response
from . import handler_data as data
from .base import DeviceLost
from .handler_run import Run, is_alone
from .telling import trace_of

logger = logging.getLogger(__name__)

#: Ids that are remembered, so that no request is given with the id of an earlier one, whose state the handler may still have.
IDS = 10_000


class Flight:
    """A request from its first round to its last."""

    def __init__(self, request: Request, respond: Callable[[Response], None]) -> None:
        self.request, self._respond = request, respond
        self.streamed = self.over = False

    def answer(self, response: Response) -> None:
        self.over = response.final
        self.streamed = True
        self._respond(response)

    def seen(self) -> None:
        """The handler has its data, and is not given it again."""
        if self.request.parts:
            self.request = msgspec.structs.replace(self.request, parts=[])


class Round(Run):
    """All requests in flight, asked once."""

    repeatable = False  # the handler has begun to change its state

    def __init__(self, flights: Sequence[Flight], context: Any) -> None:
        super().__init__([f.request for f in flights], list(range(len(flights))), lambda at, r: flights[at].answer(r))
        self._flights, self._context = flights, context

    def _respond_all(self, elements: Sequence[Any], final: bool) -> None:
        for at, (element, processor) in enumerate(zip(elements, self.processors, strict=True)):
            self._respond(at, self._piece(at, element, processor, final))

    def _piece(self, at: int, element: Any, processor: Any, final: bool) -> Response:
        try:
            last = final and (isinstance(element, Exception) or self._is_last(at, element, processor))
        except Exception as error:  # noqa: BLE001 - the criterion is the handler's code
            return Response(error=data.failure_of(error))
        marked = not last or self._flights[at].streamed or bool(self._context.stopping_criteria)
        return data.response_of(element, processor, last, marked)

    def _is_last(self, at: int, element: Any, processor: Any) -> bool:
        if not self._context.stopping_criteria:
            return True
        stop = self._context.stopping_criteria[at](element)
        return processor.get_response_header(data.STREAM_HEADER) != "true" if stop is None else bool(stop)


class Rounds:
    """The thread on which a handler is loaded and asked.

    It is one thread because what a handler sets for its thread while it loads (gradients off, the CUDA device) has to hold in
    its rounds. `handle` asks the handler and answers the run's requests, errors of the handler's included; it raises DeviceLost,
    for which `lose` ends the process.
    """

    def __init__(self, handle: Callable[[Run], None], lose: Callable[[DeviceLost], NoReturn]) -> None:
        self._handle, self._lose = handle, lose
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handler-rounds")
        self._came: queue.SimpleQueue[Flight | None] = queue.SimpleQueue()
        self._flights: list[Flight] = []
        self._ids: dict[str, None] = {}

    # ---- main thread

    def begin(self, load: Callable[..., Any], *arguments: Any) -> None:
        """Calls `load`, which returns the handler's context or raises, and begins to ask."""
        try:
            context = self._thread.submit(load, *arguments).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self._thread.submit(self._run, context)

    def add(self, requests: Sequence[Request], respond: Respond) -> None:
        """Requests for the next round."""
        for index, request in enumerate(requests):
            self._came.put(Flight(request, partial(respond, index)))

    def close(self) -> None:
        """Ends the thread after its round."""
        self._came.put(None)
        self._thread.shutdown()

    # ---- the handler's thread

    def _run(self, context: Any) -> None:
        while self._gather():
            if self._flights:
                self._ask(Round(self._flights, context))
            for flight in self._flights:
                flight.seen()

    def _gather(self) -> bool:
        """Lets go who has left, takes in who came, and waits for somebody where nobody is in flight; false at the end."""
        self._flights = [flight for flight in self._flights if not _has_left(flight)]
        while True:
            try:
                flight = self._came.get(block=not self._flights)
            except queue.Empty:
                return True
            if flight is None:
                return False
            if not _has_left(flight) and not self._take(flight) and self._flights:
                return True  # a round comes first: such requests may come without end

    def _take(self, flight: Flight) -> bool:
        """Whether it is in flight now; false where it was answered alone."""
        if is_alone(flight.request):
            self._ask(Run([flight.request], [0], lambda _, response: flight.answer(response)))
            return False
        flight.request = msgspec.structs.replace(flight.request, id=self._own_id(flight.request.id))
        self._flights.append(flight)
        return True

    def _own_id(self, wanted: str) -> str:
        """The request's id, or another where a client chose one that was there before."""
        chosen = wanted if wanted and wanted not in self._ids else str(uuid.uuid4())
        self._ids[chosen] = None
        if len(self._ids) > IDS:
            del self._ids[next(iter(self._ids))]
        return chosen

    def _ask(self, run: Run) -> None:
        """Asks the handler; whatever happens, the run's requests are answered and the thread goes on."""
        try:
            self._handle(run)
        except DeviceLost as error:
            self._lose(error)
        except BaseException as error:  # the handler may raise anything, and call sys.exit()
            logger.exception("a round of the handler failed")
            run.fail(Failure("Prediction failed", detail=trace_of(error)))


def _has_left(flight: Flight) -> bool:
    """Whether it is over, or its client has gone: then it ends here."""
    if not flight.over and flight.request.is_cancelled():
        flight.answer(Response(error=Failure("the client went away", "CANCELLED")))
    return flight.over
