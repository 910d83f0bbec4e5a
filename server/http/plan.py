"""One plan per route: the only code that reads an inference request and queues it, renders its answer, and renders a refusal.

A plan is made for method and path by the route that they lead to, and kept until the registry changes. It serves
whoever runs it: the loop's thread, a thread of the pool, Falcon's route, a front end.

    plan.begin(flight)           reads the request and queues it; raises what the client is to be told
    … the model answers: `flight.answered`, any thread …
    plan.render(flight)          the answer as a `Reply`; may block for the next response of one that has several
    plan.refuse(flight, error)   the error as a `Reply`
    plan.end(flight)             the answer is out, or given up: always, once
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...backends.base import Response
from ..call import Call, Mailbox, size
from ..errors import JitneyError

if TYPE_CHECKING:
    from .access import Access, Guard
    from .admission import Admission, Places
    from .parser import RequestHead, RequestLine

#: Plans that are kept; a client that makes up paths cannot fill the memory.
MAX_PLANS = 1024
#: Heads of replies that are kept for one plan; more come from a model that makes up headers.
MAX_HEADS = 32


class ReplyHead:
    """Status line and headers, without those of framing and connection; replies share it.

    connection  "keep-alive": is announced; "close": is announced and done; "": as the client wishes, without a word
    text        the lines as they are sent
    """

    __slots__ = ("connection", "pairs", "status", "text")

    def __init__(self, status: str, pairs: Iterable[tuple[str, str]], connection: str = "") -> None:
        self.status, self.pairs, self.connection = status, tuple(pairs), connection
        lines = [f"{name}: {value}\r\n" for name, value in self.pairs]
        self.text = f"HTTP/1.1 {status}\r\n{''.join(lines)}".encode("latin-1")

    @property
    def code(self) -> int:
        return int(self.status[:3])

    @property
    def has_body(self) -> bool:
        return not self.status.startswith(("1", "204", "304"))


class Reply(NamedTuple):
    """What is sent: a head that others share, headers of its own, and the body as a whole or as it comes."""

    head: ReplyHead
    own: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    stream: Iterator[bytes] | None = None


class InFlightRequest:
    """One request between its arrival and its answer.

    Whoever runs the plan has it, except for `answered` and `cancel`, which any thread calls. `note` is the plan's own.

    began    monotonic seconds
    peer     the client's address and port
    blocks   whether a thread waits for the answer
    """

    __slots__ = ("answer", "began", "body", "call", "cancelled", "head", "mailbox", "note", "peer", "places", "plan")

    blocks = False

    def __init__(self, plan: RoutePlan, head: RequestHead, body: bytes | memoryview, peer: str) -> None:
        self.plan, self.head, self.body, self.peer = plan, head, body, peer
        self.began = time.monotonic()
        self.call: Call | None = None
        self.answer: Response | JitneyError | None = None
        self.mailbox: Mailbox | None = None
        self.note: Any = None
        self.places: list[Places] = []
        self.cancelled = False

    def answered(self, answer: Response | JitneyError) -> None:
        """`Call.on_answer`."""
        if self.mailbox is None and isinstance(answer, Response) and not answer.final:
            self.mailbox = Mailbox()
        if self.mailbox is None:
            self.answer = answer
        else:
            self.mailbox.put(answer)
        self.wake()

    def wake(self) -> None:
        """Has whoever runs the plan look at what is there."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.cancelled = True
        if self.call is not None:
            self.call.cancel()

    def begin(self) -> None:
        """Checks whether the client may ask, and begins the plan. Raises what the client is to be told."""
        self.plan.guard.check(self.head.fields.get, self.head.line.target)
        self.plan.begin(self)
        self.body = b""
        if self.cancelled and self.call is not None:
            self.call.cancel()  # the client went away meanwhile

    @property
    def is_there(self) -> bool:
        """Whether `render` finds what it begins with: the whole answer, or of a stream the first part."""
        if self.mailbox is None:
            return self.answer is not None
        return self.plan.streams or (self.call is not None and self.call.done)

    def size(self) -> int:
        """Bytes of the answer that is to be rendered; more where rendering it may take long."""
        nbytes = 0 if self.answer is None else size(self.answer)
        return nbytes if self.call is None else self.call.weight(nbytes)

    def responses(self) -> Iterator[Response]:
        """The model's responses, the final one last. Raises its error. Blocks for those that are not there yet."""
        while True:
            answer = self.answer if self.mailbox is None else self.mailbox.get(None)
            if answer is None:
                raise RuntimeError("the model has not answered")
            if isinstance(answer, JitneyError):
                raise answer
            yield answer
            if answer.final:
                return


class WaitingRequest(InFlightRequest):
    """A request whose thread waits in `InFlightRequest.responses`."""

    __slots__ = ()

    blocks = True

    def __init__(self, plan: RoutePlan, head: RequestHead, body: bytes | memoryview, peer: str) -> None:
        super().__init__(plan, head, body, peer)
        self.mailbox = Mailbox()

    def wake(self) -> None:
        """The mailbox does that."""


class RoutePlan:
    """Base of the dialects' plans. `guard` says who may ask; whoever keeps the plan sets it."""

    #: Whether an answer begins with the model's first response, or is made of all of them.
    streams = False
    guard: Guard

    def __init__(self, access: Access, admission: Admission) -> None:
        self.access, self.admission = access, admission

    def runs_inline(self, head: RequestHead, nbytes: int) -> bool:
        """Whether `begin`, for a body of so many bytes, takes so little time that the thread of all connections may do it."""
        raise NotImplementedError

    def renders_inline(self, flight: InFlightRequest) -> bool:
        """The same for `render` of an answer that is small."""
        return True

    def begin(self, flight: InFlightRequest) -> None:
        raise NotImplementedError

    def render(self, flight: InFlightRequest) -> Reply:
        raise NotImplementedError

    def refuse(self, flight: InFlightRequest, error: Exception) -> Reply:
        raise NotImplementedError

    def admit(self, flight: InFlightRequest) -> None:
        """Takes a place among those that wait, until `end`. Raises QueueFull."""
        self._enter(flight, self.admission.threads if flight.blocks else self.admission.waiting)

    def keep_thread(self, flight: InFlightRequest) -> None:
        """Takes one of the threads' places for a stream, until `end`. Raises QueueFull."""
        if not flight.blocks:
            self._enter(flight, self.admission.threads)

    def _enter(self, flight: InFlightRequest, places: Places) -> None:
        places.enter()
        flight.places.append(places)

    def end(self, flight: InFlightRequest) -> None:
        """The answer is out, or given up; where it was given up the call is withdrawn."""
        while flight.places:
            flight.places.pop().leave()
        if flight.call is not None and not flight.call.done:
            flight.call.cancel()

    def passed(self, flight: InFlightRequest, status: int) -> None:
        """Counts an answer, and writes its line into the access log."""
        self.access.metrics.torchserve.responded(status)
        self.log(flight, status)

    def log(self, flight: InFlightRequest, status: int) -> None:
        if self.access.logs:
            line = flight.head.line
            self.access.log(flight.peer, f"{line.command} {line.target} HTTP/{line.version}", status, flight.began)


#: Makes the plan for a request line's method and path, None where there is none.
MakePlan = Callable[["RequestLine"], RoutePlan | None]


class PlanTable:
    """The plans of one listener. The loop's thread calls `find`.

    make     what finds the route and lets it make the plan
    state    a number that changes whenever the registry does: no plan outlives it
    """

    def __init__(self, make: MakePlan, state: Callable[[], int]) -> None:
        self._make, self._state = make, state
        self._made_for = state()
        self._plans: dict[str, RoutePlan | None] = {}

    def find(self, line: RequestLine) -> RoutePlan | None:
        """The plan of a request; None where the application is to answer it."""
        state = self._state()
        if state != self._made_for or len(self._plans) >= MAX_PLANS:
            self._plans, self._made_for = {}, state
        try:
            return self._plans[line.route]
        except KeyError:
            plan = self._plans[line.route] = self._make(line)
            return plan
