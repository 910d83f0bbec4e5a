"""`RunningCalls`: the calls that one worker executes together, as the server keeps them; `BatchReport`: how that went."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from ...core.call import Call
from ...core.errors import HoldsTooMuch, InvalidRequest, JitneyError
from ...core.request import Failure, Response
from ..ipc import wire
from ..ipc.messages import WireResponse
from ..ipc.wire import Fetch
from .messages import Cancel, Execute, Results
from .worker_process import WorkerProcess

#: Bytes of a message that a socket takes for certain while its worker executes something else.
LIGHT = 64 << 10

_ENCODER = msgspec.msgpack.Encoder()
_RESPONSE = msgspec.msgpack.Decoder(WireResponse)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch after all its calls are over: their slots may be freed.

    durations  nanoseconds of the worker: input, infer, output; zeros where it died
    worker     its name, "" for a batch that never found one
    ok         whether a worker executed it to the end, whatever each call's result
    left_out   calls that no worker was given: they were over already, or could not be encoded
    """

    calls: list[Call]
    rows: int
    durations: tuple[int, int, int]
    worker: str
    ok: bool
    left_out: Sequence[Call] = ()


@dataclass(slots=True)
class Again:
    """What the requests of a batch have in common that run once more, each alone, because a worker crashed over all of them.

    crashes  workers that have ended over one of them since
    """

    crashes: int = 0


class Stage(enum.Enum):
    """How far a batch is on its way to a worker's process; changed with the supervisor's lock held."""

    #: Nothing of it was written to one: no worker can have begun it.
    UNSENT = enum.auto()
    #: A thread is about to write it, or does.
    WRITING = enum.auto()
    #: The process ended meanwhile; how far it came is known to that thread alone.
    ORPHANED = enum.auto()
    #: The process has it whole.
    SENT = enum.auto()


class RunningCalls:
    """`calls` are those that were handed in, `live` those that are executed, at their index of the message.

    A call that is over already, or that cannot be encoded (it is failed with InvalidRequest), is not executed.

    pinned   for one worker and no other
    process  the worker's process that it was given to: the worker may have another one by the time it is sent
    again    holds one of the requests whose worker crashed over all of them
    over     failed from elsewhere, as late: nobody's memory is to be written to any more
    streamed indices of requests that had a part of their answer
    slow     calls whose clients have a lot to read (`rests`)
    follows  it was sent behind other batches, which its worker has whole
    launched its worker queues it on a device: it may have begun it before what it `follows` was over, and its model sees no
             request's own memory
    """

    __slots__ = (
        "again",
        "calls",
        "cancelled",
        "follows",
        "launched",
        "live",
        "message",
        "number",
        "over",
        "pinned",
        "process",
        "rows",
        "slow",
        "stage",
        "streamed",
    )

    def __init__(self, number: int, calls: Sequence[Call], pinned: bool = False, again: Again | None = None) -> None:
        self.number, self.pinned, self.again, self.over = number, pinned, again, False
        self.stage, self.follows, self.launched = Stage.UNSENT, False, False
        self.process: WorkerProcess | None = None
        self.calls = list(calls)
        self.live: list[Call] = []
        self.cancelled: set[int] = set()
        self.streamed: set[int] = set()
        self.slow: set[Call] = set()
        requests: list[msgspec.Raw] = []
        self.rows = 0
        for call in self.calls:
            if not call.done and (raw := call.message or _encode(call)) is not None:
                self.live.append(call)
                self.rows += call.request.rows
                requests.append(raw)
        self.message = Execute(number, requests)

    def answers(self, results: Results, fetch: Fetch) -> Iterable[tuple[int, Response | HoldsTooMuch]]:
        """The message's responses with their index, their bytes copied out of the worker's memory, to where the call wants them.

        Each is read when its turn comes; HoldsTooMuch stands for one that the server has no room for. ValueError, at once,
        where the worker speaks of a request that it does not have.
        """
        for index, _ in results.responses:
            if not 0 <= index < len(self.live):
                raise ValueError(f"an answer to request {index} of a batch of {len(self.live)}")
        return self._decoded(results, fetch)

    def _decoded(self, results: Results, fetch: Fetch) -> Iterator[tuple[int, Response | HoldsTooMuch]]:
        for index, raw in results.responses:
            try:
                message = _RESPONSE.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                failure = Failure(f"the model's answer cannot be understood: {error}", "BAD_OUTPUT")
                yield index, Response(error=failure)
                continue
            call = self.live[index]
            try:
                answer: Response | HoldsTooMuch = wire.response_from_wire(
                    message, fetch, None if call.done or self.over else call.target
                )
            except HoldsTooMuch as error:
                answer = error.with_traceback(None)  # which refers to what was read of the answer
            yield index, answer

    def note_start(self) -> None:
        """It is about to be sent; for calls whose deployment has not noted it."""
        if not self.live[0].times.dispatched:
            now = time.monotonic_ns()
            for call in self.live:
                call.times.dispatched, call.batch_rows = now, self.rows

    def note_waiting(self) -> None:
        """No worker has it, nor has begun it: until one does, its calls are not underway, and their time is the queue's."""
        for call in self.live:
            call.times.dispatched = 0

    def note_times(self, results: Results) -> float:
        """How long the worker took, as its last message says; returns all of it in seconds."""
        before, model, after = results.input_ns, results.infer_ns, results.output_ns
        for call in self.live:
            times = call.times
            times.compute_input, times.compute_infer, times.compute_output = before, model, after
        return (before + model + after) / 1e9

    def give(
        self, answers: Iterable[tuple[int, Response | HoldsTooMuch]], child: WorkerProcess, done: bool
    ) -> list[tuple[Failure, str]]:
        """Gives the calls their answers; returns those that are errors, each with its request's id.

        The worker is told where nobody wants what it still answers, unless the batch is `done`.
        """
        failures: list[tuple[Failure, str]] = []
        for index, response in answers:
            call = self.live[index]
            if isinstance(response, HoldsTooMuch):
                if call.fail(response) and not done:
                    self.withdraw(child, index)
                continue
            if response.error is not None:
                failures.append((response.error, call.request.id))
            if not response.final:
                self.streamed.add(index)
            if not call.answer(response) and not response.final:
                self.withdraw(child, index)
        return failures

    def withdraw(self, child: WorkerProcess, index: int) -> None:
        """Tells the worker, once, that nobody waits for this request any more."""
        if index not in self.cancelled:
            self.cancelled.add(index)
            try:
                child.send(Cancel(self.number, index))
            except OSError:
                pass  # the worker is gone, which is all the same to this call

    def may_have_begun(self) -> bool:
        """Whether its worker may have begun it, now that it has ended; it is no batch that is being written to it."""
        return self.pinned or (self.stage is Stage.SENT and (self.launched or not self.follows))

    def is_answered(self) -> bool:
        """Whether every call has its final answer."""
        return not [call for call in self.live if not call.done]

    @property
    def is_light(self) -> bool:
        """Whether its message fits into the socket of a worker that does not read just now."""
        return sum(map(len, self.message.requests)) <= LIGHT

    def untouched(self) -> list[Call]:
        """The calls of which no answer has arrived, nor a part of one."""
        return [call for index, call in enumerate(self.live) if not call.done and index not in self.streamed]

    def fail(self, error: JitneyError) -> None:
        """Ends the calls that are not over."""
        for call in self.live:
            call.fail(error)

    def report(self, worker: str = "", results: Results | None = None) -> BatchReport:
        """`results`: the message that ended the batch, None where there was none."""
        left_out = [call for call in self.calls if call not in self.live] if len(self.live) < len(self.calls) else ()
        if results is None:
            return BatchReport(self.calls, self.rows, (0, 0, 0), worker, False, left_out)
        times = (results.input_ns, results.infer_ns, results.output_ns)
        return BatchReport(self.calls, self.rows, times, worker, True, left_out)


def encoded(call: Call) -> msgspec.Raw:
    """The request as its worker gets it. InvalidRequest where it cannot be encoded."""
    try:
        return msgspec.Raw(_ENCODER.encode(wire.request_to_wire(call.request, call.slots)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the request cannot be handed to a worker: {error}") from None


def _encode(call: Call) -> msgspec.Raw | None:
    try:
        return encoded(call)
    except InvalidRequest as error:
        call.fail(error)
        return None
