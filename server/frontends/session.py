"""`FrontendSession`: what one front end asks of the scheduler, and the answers that it gets.

A request's way: the front end's reader calls `take`, `_submit` hands it to the model's deployment; the thread that has an
answer puts it into the request's `PendingReply`, and one thread at a time sends from there. When the front end has gone,
`close` cancels what is open.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...core.call import Call, size
from ...core.errors import Cancelled, Draining, HoldsTooMuch, JitneyError, Unavailable
from ...core.holding import PART, SPARED
from ...core.model_config import ModelConfig
from ...core.request import Request, Response
from ..http.kserve.shm import ClientRegions
from ..http.middleware.tokens import Tokens
from ..ipc.arena import Arena, Slot
from ..ipc.frame import BadFrame
from ..ipc.io_context import IoContext
from ..ipc.memory import Region
from ..process.log_format import about
from ..tracing.sampling import Tracing
from . import records, wire
from .error_codec import error_to_wire
from .messages import (
    Answered,
    CallAnswer,
    Cancel,
    Counted,
    Flushed,
    Freed,
    FrontTimes,
    Logged,
    Query,
    QueryReply,
    Ready,
    RegionFile,
    Requested,
    Stale,
    Submit,
    Traced,
    Upward,
)
from .send_queue import SendQueue
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


class PendingReply:
    """Answers to one request. They are sent in their order, and not before its call is known: the times are there."""

    def __init__(self, number: int, prepared: bool) -> None:
        self.number, self.prepared = number, prepared
        self.call: Call | None = None
        self.answers: deque[Response | JitneyError] = deque()
        self.sending = threading.Lock()
        self.told = prepared  # whether the front end knows which version answers
        self.over = False  # whether it had its final answer
        self.waiting = 0  # bytes of its stream since the front end was last seen to have read everything


class FrontendSession:
    """One front end's. `take` and `close` are for its reading thread; answers come on any."""

    def __init__(
        self, shared: SharedServices, send_queue: SendQueue, requests: Region, replies: Arena, on_ready: Callable[[], None],
        on_flushed: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._shared, self._send_queue, self._requests, self._replies = shared, send_queue, requests, replies
        self._on_ready, self._on_flushed = on_ready, on_flushed
        self._open: dict[int, PendingReply] = {}
        self._slots: dict[int, Slot] = {}  # answers that the front end has not read yet
        self._closed = False

    @property
    def open(self) -> int:
        """Requests without a final answer."""
        return len(self._open)

    # -- the reading thread ------------------------------------------------------------------------------------------------

    def take(self, messages: list[Upward]) -> None:
        """Does what a frame says. ValueError where it makes no sense: then the front end cannot be trusted any more."""
        with self._shared.io.coalescer.together():
            for message in messages:
                self._handle(message)

    def _handle(self, message: Upward) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Cancel():
                self._cancel(message.number)
            case Freed():
                self._free(message.offsets)
            case Query():
                self._tell(message)
            case Counted() | Requested() | Answered():
                records.count(self._shared.metrics.torchserve, message)
            case Logged():
                records.write(message)
            case Flushed():
                self._on_flushed(message.number)
            case Ready():
                self._on_ready()
            case Traced():
                self._shared.tracing.put(message.record)

    def close(self) -> None:
        """The front end has gone: what it had asked is withdrawn."""
        self._closed = True
        for box in list(self._open.values()):
            if box.call is not None:
                box.call.cancel()
        self._open.clear()

    def _submit(self, message: Submit) -> None:
        request = wire.request_from_wire(message.request, self._requests.view)
        if message.number in self._open:
            raise BadFrame(f"request {message.number} is open already")
        box = self._open[message.number] = PendingReply(message.number, message.epoch is not None)

        def on_answer(answer: Response | JitneyError) -> None:
            box.answers.append(answer)
            self._send(box)

        try:
            call = self._hand_on(message, request, on_answer)
        except JitneyError as error:
            on_answer(error)
            call = None
        except Exception:
            log.exception("a request for model '%s' failed", message.model, extra=about(request.id))
            on_answer(JitneyError(UNFORESEEN))
            call = None
        if call is None and not box.answers:  # the model has changed: the front end sends the request once more
            self._open.pop(message.number)
            self._send_queue.put(Stale(message.number))
            return
        box.call = call or Call(request)
        self._send(box)

    def _hand_on(
        self, message: Submit, request: Request, on_answer: Callable[[Response | JitneyError], None]
    ) -> Call | None:
        """The request's call; None where it was prepared for another state of the models."""
        plane, model, version = self._shared.dataplane, message.model, message.version
        if message.epoch is None:
            if message.verb == "predict":
                return plane.predict(model, version, request, on_answer=on_answer)
            return plane.infer(
                model, version, request, priority=message.priority, timeout_us=message.timeout_us, on_answer=on_answer
            )
        if message.epoch != self._shared.counters.epoch("models"):
            return None
        deployment = plane.registry.deployment(model, version)
        try:
            return deployment.submit(request, priority=message.priority, timeout_us=message.timeout_us, on_answer=on_answer)
        except Draining:  # `infer` and `predict` know its successor
            return None

    def _cancel(self, number: int) -> None:
        box = self._open.get(number)
        if box is not None and box.call is not None:
            box.call.cancel()

    def _free(self, offsets: list[int]) -> None:
        for offset in offsets:
            slot = self._slots.pop(offset, None)
            if slot is None:
                raise BadFrame(f"there is no answer at {offset}")
            self._replies.free(slot)

    def _tell(self, message: Query) -> None:
        told = QueryReply(message.number)
        try:
            self._find(message, told)
        except JitneyError as error:
            told.error = error_to_wire(error)
        except Exception:
            log.exception("a front end's question failed")
            told.error = error_to_wire(Unavailable(UNFORESEEN))
        self._send_queue.put(told)

    def _find(self, message: Query, told: QueryReply) -> None:
        if message.what == "config":
            model, *version = message.arguments
            told.config = self._shared.dataplane.config(model, version[0] if version else None)
        elif message.what == "keys":
            told.keys = dict(self._shared.tokens.keys) if self._shared.tokens is not None else {}
        else:
            region = self._shared.regions.find(*message.arguments)
            if region is not None:
                file = os.fstat(region.fd)
                told.region = RegionFile(
                    region.key, region.offset, region.byte_size, region.fd, file.st_dev, file.st_ino
                )  # fmt: skip

    # -- any thread --------------------------------------------------------------------------------------------------------

    def _send(self, box: PendingReply) -> None:
        """Sends the answers that are there, once the call is known. Threads that come meanwhile leave theirs to this one."""
        call = box.call
        if call is None or box.over:
            return
        with box.sending:
            while box.answers:
                answer = box.answers.popleft()
                if not box.over:
                    self._send_one(box, call, answer)

    def _send_one(self, box: PendingReply, call: Call, answer: Response | JitneyError) -> None:
        if isinstance(answer, Response):
            answer = self._try(box, call, answer) or answer
        if isinstance(answer, JitneyError):
            self._end(box)
            if not self._closed:
                self._send_queue.put(CallAnswer(box.number, error=error_to_wire(answer)))
            call.cancel()  # nothing to cancel unless it was a part of a stream that could not be sent

    def _try(self, box: PendingReply, call: Call, response: Response) -> JitneyError | None:
        """Sends a response; returns why that is impossible."""
        final = response.final
        if self._closed:
            return Cancelled("the front end has gone")
        if not final and (late := self._too_much(box, response)) is not None:
            return late
        slots: list[Slot] = []
        try:
            if not box.prepared and call.encode is not None and response.error is None:
                response = call.encode(response)
            message, slots = wire.response_to_wire(response, self._replies)
            for slot in slots:
                self._slots[slot.offset] = slot
            if final:
                self._end(box)
            version, steps = self._version(box, call), call.steps if final else None
            self._send_queue.put(CallAnswer(box.number, message, None, _times_for(call), version, steps))
        except JitneyError as error:
            return error
        except (TypeError, ValueError, OverflowError) as error:
            self._free([slot.offset for slot in slots])
            return Unavailable(f"the answer cannot be handed to a front end: {error}")
        return None

    def _too_much(self, box: PendingReply, response: Response) -> HoldsTooMuch | None:
        """Why a stream is ended: the front end does not come to reading what it is sent, and this is one of those that are to
        blame. It would be given up at last, with all that it has."""
        queue = self._send_queue
        box.waiting = box.waiting + size(response) + PART if queue.backlog else 0
        if not queue.is_behind or box.waiting <= SPARED:
            return None
        return HoldsTooMuch(
            f"{queue.backlog} bytes of answers wait for a front end, more than it can pass on; try again later"
        )

    def _end(self, box: PendingReply) -> None:
        box.over = True
        self._open.pop(box.number, None)

    def _version(self, box: PendingReply, call: Call) -> ModelConfig | None:
        """What the front end does not know yet: the version that answers, where it did not prepare the request."""
        if box.told:
            return None
        box.told = True
        return call.config


def _times_for(call: Call) -> FrontTimes:
    times = call.times
    return FrontTimes(
        times.dispatched, times.compute_input, times.compute_infer, times.compute_output, call.batch_rows
    )  # fmt: skip
