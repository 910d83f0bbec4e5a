"""`Call`: one accepted request on its way through the server, and the place where its answer arrives."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from . import holding
from .errors import Cancelled, JitneyError, ModelFailed
from .model_config import ModelConfig
from .request import Failure, Request, Response
from .window import Window

#: What an answer counts for whose encoding may take any time, where small ones are rendered at once.
HEAVY = 1 << 62
#: Where an output tensor's bytes shall be copied to, by its name and size; None = to memory of their own.
Target = Callable[[str, int], memoryview | None]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Times:
    """Monotonic nanoseconds of one call; 0 where it never got that far. `compute_*` are the worker's own durations.

    `received` and `sent` are HTTP's: when the request was there as a whole, and when its answer had been rendered and handed on.
    """

    arrived: int = 0
    dispatched: int = 0
    answered: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0
    received: int = 0
    sent: int = 0


def size(answer: Response | JitneyError) -> int:
    """Bytes of an answer's tensors and body."""
    if isinstance(answer, JitneyError):
        return 0
    return len(answer.body or b"") + (sum([tensor.nbytes for tensor in answer.tensors]) if answer.tensors else 0)


class SlowEncode:
    """A `Call.encode` that runs code of the user's: never on the thread of all connections."""

    def __init__(self, encode: Callable[[Response], Response]) -> None:
        self._encode = encode

    def __call__(self, response: Response) -> Response:
        return self._encode(response)


class Mailbox:
    """Answers on their way to the one thread that waits for them; cheaper than a queue, and exact about time.

    `queue.SimpleQueue.get(timeout)` can wait for ever in CPython 3.11 when the deadline passes between two of its retries.
    """

    __slots__ = ("_answers", "_filled", "_unread")

    def __init__(self) -> None:
        self._answers: deque[Response | JitneyError] = deque()
        self._unread = holding.Pile()
        self._filled = threading.Lock()  # held while nothing has arrived since the last look
        self._filled.acquire()

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def is_too_much(self) -> bool:
        """Whether so much of a stream waits here, and in the whole process, that no more of it may come."""
        return self._unread.is_too_much

    def put(self, answer: Response | JitneyError) -> None:
        """Any thread, one at a time for each call."""
        if isinstance(answer, Response) and not answer.final:
            self._unread.put(size(answer))
        self._answers.append(answer)
        try:
            self._filled.release()
        except RuntimeError:
            pass  # released already: the waiting thread has not looked since the last answer

    def get(self, timeout: float | None) -> Response | JitneyError:
        """The waiting thread only. TimeoutError after `timeout` seconds, None = never."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                answer = self._answers.popleft()
            except IndexError:
                pass
            else:
                if isinstance(answer, Response) and not answer.final:
                    self._unread.take(size(answer))
                return answer
            remaining = -1 if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._filled.acquire(timeout=remaining):
                raise TimeoutError(f"no answer within {timeout:g} s")


class Call:
    """A request, its deadline and its answers. Exactly one final answer arrives; later ones are dropped.

    Threads: the front end creates it, submits it and waits; the dispatcher and a worker's reader answer it. `answer` and
    `fail` may race (a deadline against a reply): the first final one wins.

    config      the model version that took the request, which may not be the one that was looked up before
    slots       the request's memory in the model's arena; freed by the deployment once no worker can read it
    deadline    monotonic seconds at which waiting in the queue ends with QueueTimeout; None = never
    batch_rows  rows of the batch it was executed in, for statistics
    encode      the model's codec, for dialects that want a body instead of tensors
    on_answer   called with each answer instead of keeping it for `result`, on the answering thread: must not block. What it
                raises is logged
    withdraw    takes the call out of the queue if it still waits there; set by the queue
    target      where outputs are copied to; asked by the worker's reader, which copies before it answers. The memory must last
                until the final answer: such a call is not cancelled
    message     the request as its worker gets it, where it was encoded before it left the queue
    parts       the calls of an ensemble's steps, those that are over perhaps among them; None where it is no ensemble's
    steps       of an ensemble: model, version and times of each step that was begun; None where it is no ensemble's
    window      of one whose answers another process sends: to be told which parts of a stream were taken
    mailbox     where answers wait for `result`; with `on_answer` there is none until a caller brings one
    """

    __slots__ = (
        "_pending", "batch_rows", "config", "deadline", "encode", "error", "mailbox", "message", "on_answer", "parts",
        "request", "slots", "steps", "target", "times", "window", "withdraw",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        config: ModelConfig | None = None,
        *,
        times: Times | None = None,
        batch_rows: int = 0,
        error: JitneyError | None = None,
        on_answer: Callable[[Response | JitneyError], None] | None = None,
    ) -> None:
        self.request, self.config = request, config
        self.deadline: float | None = None
        self.slots: list[object] = []
        self.times = times or Times(time.monotonic_ns())
        self.batch_rows, self.error, self.on_answer = batch_rows, error, on_answer
        self.encode: Callable[[Response], Response] | None = None
        self.withdraw: Callable[[], None] | None = None
        self.window: Window | None = None
        self.target: Target | None = None
        self.message: msgspec.Raw | None = None
        self.parts: list[Call] | None = None
        self.steps: list[tuple[str, str, Times]] | None = None
        self.mailbox = Mailbox() if on_answer is None else None
        self._pending: list[None] = [None]

    @property
    def done(self) -> bool:
        """Whether it has its final answer, delivered or on its way."""
        return not self._pending

    @property
    def underway(self) -> bool:
        """Whether a worker has it, or a part of it where it is an ensemble's: its end is then that worker's matter."""
        if self.done:
            return False
        return bool(self.times.dispatched) if self.parts is None else any(part.underway for part in list(self.parts))

    @property
    def delivered(self) -> int:
        """Answers that `result` would return at once."""
        return len(self.mailbox) if self.mailbox is not None else 0

    def weight(self, nbytes: int) -> int:
        """What an answer of `nbytes` counts for when it is decided which thread renders it."""
        return HEAVY if isinstance(self.encode, SlowEncode) else nbytes

    @property
    def _box(self) -> Mailbox:
        if self.mailbox is None:
            raise RuntimeError("the answers of this call go elsewhere")
        return self.mailbox

    def answer(self, response: Response) -> bool:
        """Hands a response to the waiting front end; False if the call was over already. A final error is the call's."""
        if response.error is not None and response.final:
            return self.fail(failed(response.error))
        if response.final and not self._finish():
            return False
        if not response.final:
            if self.done:
                return False
            if self.mailbox is not None and self.mailbox.is_too_much:
                self.fail(holding.process.refusal())
                return False
        self._hand_on(response, response.final)
        return True

    def deliver(self, answer: Response | JitneyError) -> None:
        """Hands an answer to the thread that waits in `result` or `stream`."""
        self._box.put(answer)

    def fail(self, error: JitneyError) -> bool:
        """Ends the call with an error; False if it was over already."""
        if not self._finish():
            return False
        self.error = error
        self._hand_on(error, final=True)
        return True

    def cancel(self, error: JitneyError | None = None) -> bool:
        """Ends the call because its client has gone, or for the reason given; one that waits for a worker never runs."""
        if not self.fail(error or Cancelled("the client went away")):
            return False
        withdraw = self.withdraw  # another thread may be taking it away, now that the call is over
        if withdraw is not None:
            withdraw()
        return True

    def _hand_on(self, answer: Response | JitneyError, final: bool) -> None:
        hand_on = self.on_answer or self.deliver
        if final:
            self.on_answer = None  # it refers to this call: a request must go at once, not at the next garbage collection
        try:
            hand_on(answer)
        except Exception:  # the answering thread has other calls, which must not suffer from this one
            log.exception("an answer of model '%s' could not be handed on", self.config.name if self.config else "")

    def _finish(self) -> bool:
        try:
            self._pending.pop()  # atomic: of two racing threads one gets the token
        except IndexError:
            return False
        self.times.answered = time.monotonic_ns()
        return True

    def result(self, timeout: float | None = None) -> Response:
        """Waits for the next answer, which in a stream may be an error. Raises the call's own, or TimeoutError after `timeout`
        seconds."""
        answer = self._box.get(timeout)
        if isinstance(answer, JitneyError):
            raise answer
        return answer

    def stream(self, timeout: float | None = None) -> Iterator[Response]:
        """Yields answers until the final one; `timeout` seconds apply to each."""
        while True:
            response = self.result(timeout)
            yield response
            if response.final:
                return


def only(responses: Iterable[Response]) -> Response:
    """The response of a model that gives one; a final one without outputs may follow it. Raises the model's error."""
    found: Response | None = None
    for response in responses:
        if response.error is not None:
            raise failed(response.error)
        if found is not None and found.tensors and response.tensors:
            raise ModelFailed("the model gave more than one response to a request", "BAD_OUTPUT")
        if found is None or response.tensors:
            found = response
    if found is None:
        raise ModelFailed("the model gave no response", "BAD_OUTPUT")
    return found


def failed(failure: Failure) -> ModelFailed:
    """What a model's error is here."""
    return ModelFailed(failure.message, failure.code, failure.status, failure.by_model, _last_line(failure.detail))


def _last_line(traceback: str) -> str:
    """The exception itself, which a traceback ends with."""
    return traceback.rstrip().rpartition("\n")[2]
