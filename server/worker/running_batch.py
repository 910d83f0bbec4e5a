"""The batch that a worker is running: what `execute` gets, and where its answers go. Worker process only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec

from ...backends.base import Backend, DeviceLost, Launched
from ...backends.memory import is_out_of_memory
from ...backends.telling import text_of, trace_of
from ...core.errors import ModelFailed
from ...core.request import Failure, Request, Response
from ...core.tensor import Buffer
from ..ipc import wire
from ..ipc.arena import Slot
from ..ipc.frame import MAX_PAYLOAD
from ..ipc.memory import Region
from ..ipc.messages import Data, WireRequest
from ..workers.channel import MessageChannel
from ..workers.messages import Execute, Results
from .reply_memory import ReplyMemory
from .resting import Resting

#: Answers up to this size travel in the frame: cheaper than two copies through shared memory.
INLINE = 4 << 10
#: All answers of one frame together; what is beyond goes through shared memory however small it is.
INLINE_TOTAL = 16 << 20

#: The names, parameters and small tensors of one answer; what all answers of a frame have together beyond their tensors.
LARGEST = MAX_PAYLOAD - (1 << 20)

_REQUEST = msgspec.msgpack.Decoder(WireRequest)


def failure_of(error: BaseException) -> Failure:
    """What a client hears about an exception out of the model's code."""
    text, detail = text_of(error), trace_of(error)
    if isinstance(error, ModelFailed):
        return Failure(text, error.code, error.status, error.by_model, detail)
    code = "OUT_OF_MEMORY" if is_out_of_memory(error) else "INTERNAL"
    return Failure(f"{type(error).__name__}: {text}", code, detail=detail)


class RunningBatch:
    """One batch from its arrival to its last answer.

    Answers are collected and sent together when it is executed, except streamed ones, which take along what was collected.
    After that, and at any time for models that may leave requests open (`overlaps`: decoupled ones, asynchronous handlers), each
    is sent at once. `respond` may be called from any thread; a part of a stream waits there while the server wants none.
    """

    def __init__(
        self, message: Execute, channel: MessageChannel, arena: Region, reply: ReplyMemory, resting: Resting, overlaps: bool
    ) -> None:
        self.id = message.batch
        self._message, self._channel, self._arena, self._reply, self._overlaps = message, channel, arena, reply, overlaps
        self._resting, self._rested_ns = resting, 0
        self._lock = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._open = set(range(len(message.requests)))
        self._refused: set[int] = set()
        self._cancelled: set[int] = set()
        self._collected: list[tuple[int, msgspec.Raw]] = []
        self._collected_bytes = 0
        self._slots: list[Slot] = []  # of the answers collected
        self._returned = False
        self._backend: Backend | None = None
        self._launched: Launched | None = None
        self._retried, self._started_ns = False, 0
        self._input_ns = self._infer_ns = self._output_ns = 0

    @property
    def done(self) -> bool:
        """Whether every request had its final answer and `execute` has returned."""
        return self._returned and not self._open

    # ---- main thread

    def begin(self, backend: Backend, retried: bool = False) -> bool:
        """Has the backend execute the batch, or launch it: then it returns True, and `end` is to be called.

        An executed batch leaves no request open but those that the model may answer later. Raises the backend's DeviceLost after
        it failed the requests; where they are `retried` elsewhere, it leaves them open.
        """
        self._started_ns = time.perf_counter_ns()
        self._backend, self._retried = backend, retried
        requests = self._requests()
        self._input_ns = time.perf_counter_ns() - self._started_ns
        backend.durations = (0, 0, 0)
        self._step(backend, partial(backend.begin, requests, self.respond))
        return self._launched is not None

    def is_over(self) -> bool:
        """Of a batch that was launched: whether `end` would not wait."""
        return self._launched is None or self._launched.is_over()

    def end(self) -> None:
        """Answers a batch that was launched. Raises as `begin` does."""
        launched, self._launched = self._launched, None
        if launched is not None and self._backend is not None:
            self._step(self._backend, launched.end)

    def _step(self, backend: Backend, step: Callable[[], Launched | None]) -> None:
        failure, lost = None, None
        try:
            self._launched = step()
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises fails its requests, not the worker
            failure = failure_of(error)
            lost = error if isinstance(error, DeviceLost) else None
        if lost is not None and self._retried:
            raise lost
        if self._launched is not None:
            return
        spent = time.perf_counter_ns() - self._started_ns
        with self._lock:
            self._count(spent, backend.durations)
            self._returned = True
            self._finish(failure)
        if lost is not None:
            raise lost

    def _requests(self) -> list[Request]:
        is_cancelled = self._cancelled.__contains__
        requests = []
        for index, raw in enumerate(self._message.requests):
            request = wire.request_from_wire(_REQUEST.decode(raw), self._fetch)
            request.is_cancelled = partial(is_cancelled, index)
            requests.append(request)
        return requests

    def _fetch(self, data: Data, into: memoryview | None = None) -> Buffer:
        return self._arena.view(*data) if isinstance(data, tuple) else data

    # ---- any thread

    def cancel(self, index: int) -> None:
        self._cancelled.add(index)

    def respond(self, index: int, response: Response) -> None:
        """`backends.request.Respond`. IndexError or RuntimeError for an answer that belongs to no open request."""
        rested = 0 if response.final else self._resting.wait()
        started = time.perf_counter_ns()
        with self._lock:
            self._rested_ns += rested
            if not isinstance(index, int) or index not in self._open:
                self._turn_away(index)
                return
            final = self._collect(index, response)
            if final:
                self._open.discard(index)
            if self._returned or self._overlaps or not final:
                self._flush()
            self._output_ns += time.perf_counter_ns() - started

    # ---- with the lock held

    def _count(self, spent_ns: int, durations: tuple[int, int, int]) -> None:
        """Shares the time out: the backend's own account of its part where it has one."""
        before, model, after = durations
        self._infer_ns = model or max(spent_ns - self._input_ns - self._output_ns - self._rested_ns, 0)
        self._input_ns += before
        self._output_ns += after

    def _finish(self, failure: Failure | None) -> None:
        """`execute` returned, or raised `failure`: ends what is open, unless it may be answered later, and sends."""
        if failure is None and self._open and not self._overlaps:
            total = len(self._message.requests)
            failure = Failure(f"the model answered {total - len(self._open)} of {total} requests", "BAD_OUTPUT")
        if failure is not None:
            for index in sorted(self._open):
                self._collect(index, Response(error=failure))
            self._open.clear()
        self._flush()

    def _turn_away(self, index: object) -> None:
        """An answer that belongs to no open request."""
        total = len(self._message.requests)
        if not isinstance(index, int) or not 0 <= index < total:
            raise IndexError(f"answer to request {index!r} of a batch of {total}")
        if index not in self._refused:  # else it was ended for an answer that could not be sent; the model need not know
            raise RuntimeError(f"request {index} of the batch had its final response already")

    def _collect(self, index: int, response: Response) -> bool:
        """Encodes one answer, or in its place the reason why that is impossible; returns whether it was final."""
        final = response.final
        try:
            message = wire.response_to_wire(response, self._place)
            raw = self._encoder.encode(message)
            if len(raw) > LARGEST:
                raise ValueError(f"its parameters or its error text have {len(raw)} bytes, at most {LARGEST} can be sent")
        except Exception as error:  # noqa: BLE001 - the model's objects may raise anything when they are looked at
            self._refused.add(index)
            final = True
            text = f"the model's answer cannot be sent: {text_of(error)}"
            failure = Failure(text, "BAD_OUTPUT", detail=trace_of(error))
            raw = self._encoder.encode(wire.response_to_wire(Response(error=failure), self._place))
        if self._collected_bytes + len(raw) > LARGEST:
            self._flush()
        self._collected.append((index, msgspec.Raw(raw)))
        self._collected_bytes += len(raw)
        return final

    def _place(self, data: Buffer) -> Data:
        return data if len(data) <= INLINE and self._collected_bytes < INLINE_TOTAL else self._put(data)

    def _put(self, data: Buffer) -> Data:
        slot = self._reply.put(data)
        self._slots.append(slot)
        return slot.offset, slot.nbytes

    def _flush(self) -> None:
        times = (self._input_ns, self._infer_ns, self._output_ns)
        results = Results(self.id, self._collected, self.done, self._returned, *times)
        if self._slots:
            results.placed = sum(slot.nbytes for slot in self._slots)
            self._reply.send(self._channel, results, self._slots)
            self._slots = []
        else:
            self._channel.send(results)
        self._collected, self._collected_bytes = [], 0
