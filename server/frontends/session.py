"""`FrontendSession`: what one front end asks of the scheduler, and the answers that it gets.

A request's way: the front end's reader calls `take`, `_submit` hands it to the model's deployment; the thread that has an
answer puts it into the request's `PendingReply`, and one thread at a time sends from there. Parts of a stream are sent as their
client takes them; where many wait, the model is asked to rest. When the front end has gone, `close` cancels what is open.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from ...core import holding
from ...core.call import Call, size
from ...core.errors import Cancelled, Draining, JitneyError, Unavailable
from ...core.model_config import ModelConfig
from ...core.request import Request, Response
from ..ipc.arena import Arena, Slot
from ..ipc.frame import BadFrame
from ..ipc.memory import Region
from ..process.log_format import about
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
    Ready,
    Requested,
    Stale,
    Submit,
    Taken,
    Traced,
    Upward,
)
from .pending_reply import PendingReply
from .queries import UNFORESEEN, SharedServices, told
from .send_queue import SendQueue

log = logging.getLogger(__name__)


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
        self._pacing = threading.Lock()
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
                self._send_queue.put(told(message, self._shared))
            case Counted() | Requested() | Answered():
                records.count(self._shared.metrics.torchserve, message)
            case Logged():
                records.write(message)
            case Flushed():
                self._on_flushed(message.number)
            case Ready():
                self._on_ready()
            case Taken():
                self._go_on(message)
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
        on_answer = partial(self._answered, box)
        try:
            call = self._hand_on(message, request, on_answer)
        except JitneyError as error:
            on_answer(error)
            call = None
        except Exception:
            log.exception("a request for model '%s' failed", message.model, extra=about(request.id))
            on_answer(JitneyError(UNFORESEEN))
            call = None
        if call is None and not box:  # the model has changed: the front end sends the request once more
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
        if box is None or box.call is None:
            return
        box.clear()
        if not box.call.cancel():  # its end may have waited
            self._answered(box, Cancelled("the client went away"))

    def _go_on(self, message: Taken) -> None:
        """The client has taken parts of a stream: those that wait may follow."""
        box = self._open.get(message.number)
        if box is None:
            return
        with box.sending:
            box.ahead.taken(message.parts)
        self._send(box)
        if box.has_wish:
            self._pace(box)

    def _free(self, offsets: list[int]) -> None:
        for offset in offsets:
            slot = self._slots.pop(offset, None)
            if slot is None:
                raise BadFrame(f"there is no answer at {offset}")
            self._replies.free(slot)

    # -- any thread --------------------------------------------------------------------------------------------------------

    def _answered(self, box: PendingReply, answer: Response | JitneyError) -> None:
        """`Call.on_answer`."""
        if box.over:
            return
        box.put(answer)
        self._send(box)
        if box.is_too_much:
            self._relieve()
        elif box.has_wish:
            self._pace(box)

    def _pace(self, box: PendingReply) -> None:
        """Asks the model of a stream to rest, or to go on, where its client makes that necessary."""
        with self._pacing:
            rests = box.wish()
            if rests is not None and box.call is not None:
                self._shared.dataplane.rest(box.call, rests)

    def _relieve(self) -> None:
        """Ends the stream of which most waits: there is no room for more."""
        box = max(list(self._open.values()), key=lambda box: box.waiting, default=None)
        if box is not None and box.call is not None and not box.call.cancel(holding.process.refusal()):
            self._answered(box, holding.process.refusal())  # the model is done with it, the client is not

    def _send(self, box: PendingReply) -> None:
        """Sends the answers that may be sent, once the call is known. Threads that come meanwhile leave theirs to this one."""
        call = box.call
        if call is None or box.over:
            return
        with box.sending:
            while (answer := box.next(self._send_queue.is_behind)) is not None:
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
        slots: list[Slot] = []
        try:
            if not box.prepared and call.encode is not None and response.error is None:
                response = call.encode(response)
            message, slots = wire.response_to_wire(response, self._replies)
            for slot in slots:
                self._slots[slot.offset] = slot
            if final:
                self._end(box)
            else:
                box.ahead.sent(size(response))
            version, steps = self._version(box, call), call.steps if final else None
            self._send_queue.put(CallAnswer(box.number, message, None, _times_for(call), version, steps))
        except JitneyError as error:
            return error
        except (TypeError, ValueError, OverflowError) as error:
            self._free([slot.offset for slot in slots])
            return Unavailable(f"the answer cannot be handed to a front end: {error}")
        return None

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
