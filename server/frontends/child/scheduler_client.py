"""`SchedulerClient`: the front end's end of its socket to the scheduler: sends requests, and hands the answers to their calls."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import msgspec

from ....core import holding
from ....core.call import Call, size
from ....core.errors import HoldsTooMuch, InvalidRequest, JitneyError, QueueFull, Unavailable
from ....core.request import Request, Response
from ....core.tensor import Buffer
from ....core.window import Window
from ...ipc.arena import Arena, Slot
from ...ipc.frame import BadFrame, FrameReader, PeerClosed
from ...ipc.frame_reading import Reading
from ...ipc.io_context import IoContext
from ...ipc.memory import Region
from ...tracing.sampling import Tracing
from .. import wire
from ..error_codec import error_from_wire
from ..messages import (
    DOWNWARD,
    CallAnswer,
    Cancel,
    Downward,
    Drain,
    Flush,
    Flushed,
    Freed,
    FrontResponse,
    FrontTimes,
    Query,
    QueryReply,
    Stale,
    Submit,
    Taken,
    Traced,
    Traces,
)
from ..send_queue import SendQueue

log = logging.getLogger(__name__)

#: How long the scheduler may take to answer a question about itself.
ASK_S = 60.0


@dataclass(frozen=True, slots=True)
class SubmitArgs:
    """What a client asked for. `request` is as it came, `call.request` may be decoded."""

    verb: Literal["infer", "predict"]
    model: str
    version: str | None
    request: Request
    priority: int = 0
    timeout_us: int = 0


@dataclass(slots=True)
class _Open:
    """A request that the scheduler has, until its final answer."""

    call: Call
    submitted: SubmitArgs
    slots: list[Slot] = field(default_factory=list)


class SchedulerClient:
    """Threads: any may `submit` and `ask`; a thread of the link reads, and calls `on_drain(seconds)` and `on_lost(why)`."""

    def __init__(
        self, sock: socket.socket, reader: FrameReader, send_queue: SendQueue, arena: Arena, replies: Region,
        on_drain: Callable[[float], None], on_lost: Callable[[str], None], io: IoContext,
    ) -> None:  # fmt: skip
        self.send_queue, self.arena, self._coalescer = send_queue, arena, io.coalescer
        self._reading, self._replies = Reading(sock, reader, self._take, io.reactors), replies
        self._on_drain, self._on_lost = on_drain, on_lost
        self.tracing = Tracing(lambda record: send_queue.put(Traced(record), urgent=False))
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._asked: dict[int, list[QueryReply]] = {}
        self._thread = threading.Thread(target=self._read, name="front-read", daemon=True)

    def start(self) -> None:
        self.send_queue.start()
        self._thread.start()

    # -- threads of the routes ---------------------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Requests without a final answer."""
        return len(self._open)

    def submit(self, call: Call, submitted: SubmitArgs, epoch: int | None) -> None:
        """Sends a request; its answers are given to `call`. With an epoch `call.request` goes, decoded and checked for it.

        QueueFull where the memory does not hold it, InvalidRequest where it cannot be sent.
        """
        number, entry = next(self._numbers), _Open(call, submitted)
        self._open[number] = entry
        call.withdraw, call.window = partial(self._withdraw, number), Window(partial(self._tell_taken, number))
        try:
            self._send(number, entry, epoch)
        except JitneyError:
            self._open.pop(number)
            call.withdraw = None
            raise

    def _send(self, number: int, entry: _Open, epoch: int | None) -> None:
        submitted = entry.submitted
        request = submitted.request if epoch is None else entry.call.request
        message, entry.slots = wire.request_to_wire(request, self.arena)
        submit = Submit(
            number, submitted.verb, submitted.model, submitted.version, epoch, message, submitted.priority, submitted.timeout_us
        )  # fmt: skip
        try:
            self.send_queue.put(submit)
        except (TypeError, ValueError, OverflowError) as error:
            self._free(entry)
            raise InvalidRequest(f"the request cannot be handed to a worker: {error}") from None

    def ask(self, what: Literal["config", "keys", "region"], *arguments: str) -> QueryReply:
        """Asks the scheduler and waits; raises the error that it answers with, Unavailable where it does not answer."""
        number = next(self._numbers)
        answers = self._asked[number] = []
        try:
            self.send_queue.put(Query(number, what, arguments))
            self.send_queue.flush()  # also where this thread gathers
            if not self._reading.wait_for(lambda: bool(answers), ASK_S):
                raise Unavailable(f"the scheduler did not answer within {ASK_S:g} s")
            told = answers[0]
        finally:
            self._asked.pop(number, None)
        if told.error is not None:
            raise error_from_wire(told.error)
        return told

    def _withdraw(self, number: int) -> None:
        if number in self._open:
            self.send_queue.put(Cancel(number))

    def _tell_taken(self, number: int, parts: int) -> None:
        """Any thread that takes parts of a stream."""
        if number in self._open:
            self.send_queue.put(Taken(number, parts))

    def _free(self, entry: _Open) -> None:
        slots, entry.slots = entry.slots, []
        self.arena.free_all(slots)

    # -- the reading thread ------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._reading.run()
        except PeerClosed:
            self._on_lost("")
        except (BadFrame, msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            self._on_lost(f"the scheduler sent something that is no message of ours: {error}")
        except Exception as error:
            log.exception("the scheduler's messages cannot be handled")
            self._on_lost(f"{type(error).__name__}: {error}")

    # -- the reading thread or the reactor's -----------------------------------------------------------------------------

    def _take(self, payload: bytes | bytearray) -> None:
        with self._coalescer.together():
            for message in DOWNWARD.decode(payload):
                self._handle(message)

    def _handle(self, message: Downward) -> None:
        match message:
            case CallAnswer():
                self._answer(message)
            case Stale():
                self._again(message.number)
            case QueryReply():
                if message.number in self._asked:
                    self._asked[message.number].append(message)
            case Flush():
                self.send_queue.put(Flushed(message.number))
            case Drain():
                self._on_drain(message.seconds)
            case Traces():
                self.tracing.apply(message.rules)
            case _:
                raise BadFrame(f"{type(message).__name__} comes too late")

    def _answer(self, message: CallAnswer) -> None:
        answer: Response | JitneyError | None = None
        if message.error is not None:
            answer = error_from_wire(message.error)
        elif message.response is not None:
            answer = self._copied(message.response)
            if offsets := wire.places(message.response):
                self.send_queue.put(Freed(offsets), urgent=False)
        entry = self._open.get(message.number)
        if entry is None:
            return
        call = entry.call
        if message.response is None or message.response.final:
            del self._open[message.number]
            self._free(entry)
            call.withdraw = None
        _tell(call, message)
        withdraw = call.withdraw
        if isinstance(answer, JitneyError):
            if isinstance(answer, QueueFull):
                self._coalescer.refused()
            taken = not call.fail(answer) or not isinstance(answer, HoldsTooMuch)
        else:
            taken = answer is None or self._hand_on(call, answer)
        if not taken and withdraw is not None:
            withdraw()

    def _hand_on(self, call: Call, answer: Response) -> bool:
        """Whether the call wanted it."""
        window = call.window
        if not answer.final and window is not None and not window.by_client:
            window.took(size(answer))
        return call.answer(answer)

    def _copied(self, response: FrontResponse) -> Response | HoldsTooMuch:
        try:
            return wire.response_from_wire(response, self._copy)
        except HoldsTooMuch as error:
            return error.with_traceback(None)

    def _copy(self, offset: int, nbytes: int) -> Buffer:
        into = holding.memory(nbytes) if nbytes > holding.COUNTED else None
        return self._replies.read(offset, nbytes, into)

    def _again(self, number: int) -> None:
        """Sends a request as it came: what it was decoded for has changed."""
        entry = self._open.get(number)
        if entry is None:
            return
        self._free(entry)
        call = entry.call
        if not call.done:
            call.encode = None  # the scheduler will
            try:
                self._send(number, entry, None)
            except JitneyError as error:
                call.fail(error)
            else:
                if entry.call.done:  # meanwhile
                    self.send_queue.put(Cancel(number))
                return
        self._open.pop(number, None)
        call.withdraw = None


def _tell(call: Call, message: CallAnswer) -> None:
    """What the scheduler knows of a call."""
    call.config = message.config or call.config
    if message.times is not None:
        set_times(call, message.times)
    if message.steps is not None:
        call.steps = message.steps


def set_times(call: Call, times: FrontTimes) -> None:
    call.times.dispatched, call.times.compute_input = times.dispatched, times.compute_input
    call.times.compute_infer, call.times.compute_output = times.compute_infer, times.compute_output
    call.batch_rows = times.batch_rows
