"""One plan per route: the only code that reads an inference request and queues it, renders its answer, and renders a refusal.

A plan is made for method and path by the route that they lead to, and kept until the registry changes. It serves
every runner: the loop's thread, a thread of the pool, Falcon's route, a front end.

    plan.begin(flight)           reads the request and queues it; raises what the client is to be told
    … the model answers: `flight.answered`, any thread …
    plan.render(flight)          the answer as a `Reply`; may block for the next response of one that has several
    plan.refuse(flight, error)   the error as a `Reply`
    plan.end(flight)             the answer is out, or given up: always, once; then it may be traced

The file is long since the request, its plan and their table are what every request crosses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...core import holding
from ...core.call import Call, Mailbox, failed, size
from ...core.errors import JitneyError
from ...core.request import Response
from ..process.log_format import about
from ..tracing.record import Front

if TYPE_CHECKING:
    from ..tracing.sampling import Tracing
    from .engine.parser import RequestHead, RequestLine
    from .middleware.admission import Admission, Places
    from .middleware.guard import Guard
    from .middleware.recorder import Recorder

#: Plans that are kept; a client that makes up paths cannot fill the memory.
MAX_PLANS = 1024
#: Heads of replies that are kept for one plan; more come from a model that makes up headers.
MAX_HEADS = 32


class ReplyHead:
    """Status line and headers, without those of framing and connection; replies share it.

    connection  "keep-alive": is announced; "close": is announced and done; "": as the client wishes, without a word
    opens, keeps, closes   the lines as they are sent where the connection goes on, where that has to be said, and where it ends
    """

    __slots__ = ("closes", "code", "connection", "has_body", "keeps", "opens", "pairs", "status")

    def __init__(self, status: str, pairs: Iterable[tuple[str, str]], connection: str = "") -> None:
        self.status, self.pairs, self.connection = status, tuple(pairs), connection
        self.code = int(status[:3])
        self.has_body = not status.startswith(("1", "204", "304"))
        lines = [f"{name}: {value}\r\n" for name, value in self.pairs]
        text = f"HTTP/1.1 {status}\r\n{''.join(lines)}".encode("latin-1")
        self.keeps, self.closes = text + b"connection: keep-alive\r\n", text + b"connection: close\r\n"
        self.opens = self.keeps if connection == "keep-alive" else text


class Reply(NamedTuple):
    """What is sent: a head that others share, headers of its own, and the body as a whole or as it comes.

    rest    what follows `body`, in pieces that are sent from where they lie: putting hundreds of megabytes behind each other
            takes seconds, in which no other thread would run
    stream  its large chunks are sent likewise
    """

    head: ReplyHead
    own: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    stream: Iterator[bytes | memoryview] | None = None
    rest: Sequence[memoryview] = ()

    @property
    def nbytes(self) -> int:
        """Of the whole body."""
        return len(self.body) + sum(map(len, self.rest)) if self.rest else len(self.body)

    @property
    def whole(self) -> bytes:
        """The body in one piece."""
        return b"".join((self.body, *self.rest)) if self.rest else self.body


class InFlightRequest:
    """One request between its arrival and its answer.

    The thread that runs the plan has it, except for `answered` and `cancel`, which any thread calls. `note` is the plan's own.

    began    monotonic seconds
    blocks   whether a thread waits for the answer
    status   of its answer, 0 before there is one
    """

    __slots__ = ("answer", "began", "body", "call", "cancelled", "head", "mailbox", "note", "places", "plan", "status")

    blocks = False

    def __init__(self, plan: RoutePlan, head: RequestHead, body: bytes | memoryview) -> None:
        self.plan, self.head, self.body = plan, head, body
        self.began = time.monotonic()
        self.call: Call | None = None
        self.answer: Response | JitneyError | None = None
        self.mailbox: Mailbox | None = None
        self.note: Any = None
        self.places: tuple[Places, ...] = ()
        self.cancelled = False
        self.status = 0

    @property
    def peer(self) -> str:
        """The client's address and port."""
        raise NotImplementedError

    @property
    def request_id(self) -> str:
        """As far as it is known."""
        return getattr(self.note, "id", "")

    def about(self) -> dict[str, Any]:
        """`extra` of a line in the log that concerns it."""
        return about(self.request_id, self.head.fields.get("traceparent"))

    def answered(self, answer: Response | JitneyError) -> None:
        """`Call.on_answer`."""
        if self.mailbox is None and isinstance(answer, Response) and not answer.final:
            self.mailbox = Mailbox()
        if self.mailbox is None:
            self.answer = answer
        else:
            self._keep(self.mailbox, answer)
        self.wake()

    def _keep(self, mailbox: Mailbox, answer: Response | JitneyError) -> None:
        """Until it is rendered; a stream that its client does not read ends where the process holds as much as it may."""
        mailbox.put(answer)
        if self.call is not None and isinstance(answer, Response) and not answer.final and mailbox.is_too_much:
            self.call.cancel(holding.process.refusal())

    def wake(self) -> None:
        """Has the plan's runner look at what is there."""
        raise NotImplementedError

    def cancel(self) -> None:
        """The client has gone, or gave up."""
        self.cancelled = True
        if self.call is not None:
            self.call.cancel()

    def begin(self) -> None:
        """Checks whether the client may ask, and begins the plan. Raises what the client is to be told."""
        plan, head = self.plan, self.head
        if head.line.has_escapes or not plan.guard.lets_all_pass:
            plan.guard.check(head.fields.get, head.line.target)
        self.begin_plan()

    def begin_plan(self) -> None:
        """The same where it was checked before."""
        self.plan.begin(self)
        self.body = b""
        if self.cancelled and self.call is not None:
            self.call.cancel()  # the client went away meanwhile

    @property
    def has_first_part(self) -> bool:
        """Of an answer in several parts, whether `render` finds what it begins with: the first one, or all."""
        if self.mailbox is None:
            return False
        return self.plan.streams or (self.call is not None and self.call.done)

    def weight(self) -> int:
        """Bytes of the whole answer that is to be rendered; more where rendering it may take long."""
        answer, call = self.answer, self.call
        if not isinstance(answer, Response):
            return 0
        nbytes = size(answer)
        return nbytes if call is None or call.encode is None else call.weight(nbytes)

    def only(self) -> Response:
        """The model's one response, where there is no mailbox. Raises its error."""
        answer = self.answer
        if answer is None:
            raise RuntimeError("the model has not answered")
        if isinstance(answer, JitneyError):
            raise answer
        return answer

    def responses(self) -> Iterator[Response]:
        """The model's responses, the final one last. Raises its first error. Blocks for those that are not there yet."""
        if self.mailbox is None:
            yield self.only()
            return
        while True:
            answer = self.mailbox.get(None)
            if isinstance(answer, JitneyError):
                raise answer
            if answer.error is not None:
                self.cancel()
                raise failed(answer.error)
            yield answer
            if answer.final:
                return


class WaitingRequest(InFlightRequest):
    """A request whose thread waits in `InFlightRequest.responses`."""

    __slots__ = ("_peer",)

    blocks = True

    def __init__(self, plan: RoutePlan, head: RequestHead, body: bytes | memoryview, peer: str) -> None:
        super().__init__(plan, head, body)
        self._peer, self.mailbox = peer, Mailbox()

    @property
    def peer(self) -> str:
        return self._peer

    def wake(self) -> None:
        """The mailbox does that."""


class RoutePlan:
    """Base of the dialects' plans. `guard` says what requests must carry; `PlanFinder` sets it."""

    #: Whether an answer begins with the model's first response, or is made of all of them.
    streams = False
    guard: Guard

    def __init__(self, recorder: Recorder, admission: Admission) -> None:
        self.recorder, self.admission = recorder, admission

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
        places = self.admission.threads if flight.blocks else self.admission.waiting
        places.enter()
        flight.places = (places,)

    def keep_thread(self, flight: InFlightRequest) -> None:
        """Takes one of the threads' places for a stream, until `end`. Raises QueueFull."""
        if not flight.blocks:
            self.admission.threads.enter()
            flight.places += (self.admission.threads,)

    def end(self, flight: InFlightRequest) -> None:
        """The answer is out, or given up; where it was given up the call is withdrawn."""
        places, flight.places = flight.places, ()
        for taken in places:
            taken.leave()
        call = flight.call
        if call is not None:
            times = call.times
            times.received, times.sent = int(flight.began * 1e9), time.monotonic_ns()
            if flight.answer is None and not call.done:
                call.cancel()
        if self.recorder.tracing.rules:
            self._trace(flight, self.recorder.tracing)
        if isinstance(flight.answer, JitneyError):  # its traceback refers to the flight: a cycle that would keep the body
            flight.answer.__traceback__ = None

    def _trace(self, flight: InFlightRequest, tracing: Tracing) -> None:
        """Has a request traced whose turn it is, or whose client traces it; as `Tracing.choose`, at the least cost."""
        call, fields, line = flight.call, flight.head.fields, flight.head.line
        model = call.config.name if call is not None and call.config is not None else ""
        sampler = tracing.rules.get(model) or tracing.rules.get("")
        if sampler is None:
            return
        chosen = bool(sampler.rate) and not next(sampler.turns) % sampler.rate
        parent = fields.get("traceparent")
        if chosen or (parent is not None and sampler.follows and not parent.endswith("-00")):  # which says: not sampled
            began, now, status = int(flight.began * 1e9), time.monotonic_ns(), str(flight.status or "")
            front = Front("http", line.command, line.path, flight.peer, status, began, now, parent or "")
            front.state = fields.get("tracestate", "")
            tracing.take(front, sampler, chosen, call, flight.answer)

    def passed(self, flight: InFlightRequest, status: int) -> None:
        """Counts an answer, and writes its line into the access log."""
        self.recorder.answered(status)
        self.log(flight, status)

    def log(self, flight: InFlightRequest, status: int) -> None:
        if self.recorder.logs:
            line = flight.head.line
            text, parent = f"{line.command} {line.target} HTTP/{line.version}", flight.head.fields.get("traceparent")
            self.recorder.log(flight.peer, text, status, flight.began, flight.request_id, parent)


#: Makes the plan for a request line's method and path, None where there is none.
MakePlan = Callable[["RequestLine"], RoutePlan | None]


class HasState(Protocol):
    """What plans are made for."""

    @property
    def state(self) -> int: ...


class PlanTable:
    """The plans of one listener. The loop's thread calls `find`.

    make     what finds the route and lets it make the plan
    plane    its `state` changes whenever the registry does: no plan outlives it
    """

    def __init__(self, make: MakePlan, plane: HasState) -> None:
        self._make, self._plane = make, plane
        self._made_for = plane.state
        self._plans: dict[str, RoutePlan | None] = {}

    def find(self, line: RequestLine) -> RoutePlan | None:
        """The plan of a request; None where the application is to answer it."""
        state = self._plane.state
        if state != self._made_for or len(self._plans) >= MAX_PLANS:
            self._plans, self._made_for = {}, state
        try:
            return self._plans[line.route]
        except KeyError:
            plan = self._plans[line.route] = self._make(line)
            return plan
