"""One request's way back from a Python model."""

from __future__ import annotations

import importlib
import queue
import threading
from typing import Any, Protocol

from ..core.model_config import ModelConfig
from ..core.request import FINAL_MARK, Failure, Respond, Response
from .telling import text_of, trace_of

_SECOND_RESPONSE = "Unable to send response. Non-decoupled model cannot send more than one response."
_NO_RESPONSE = "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
_LET_GO = "the model let the request go without its final response"


class Owner(Protocol):
    """The backend whose model answers.

    utils    the model's `triton_python_backend_utils`
    dropped  takes the requests that the model has let go
    failed   is told when the model, or its failing, has answered a request with an error
    """

    config: ModelConfig
    utils: Any
    dropped: queue.SimpleQueue[Answer | None]

    def failed(self) -> None: ...


class Answer:
    """What a model answers to one request. A decoupled model's answers end with a final one; others have exactly one.

    Threads: `execute`'s and any that the model sends from; the lock keeps the order of one request's answers.

    over    whether the final response was given. The server's errors are final; a decoupled model may go on after one of its own
    taken   whether the model asked for the response sender
    """

    def __init__(self, index: int, wanted: frozenset[str], backend: Owner, respond: Respond) -> None:
        self._index, self._wanted, self._backend, self._respond = index, wanted, backend, respond
        self._lock = threading.Lock()
        self._sent = 0
        self.over = self.taken = False
        self._open = threading.Lock()  # held until then: an Event costs several times as much to make
        self._open.acquire()

    def wait(self) -> None:
        """Returns when it is over."""
        if not self.over:
            self._open.acquire()
            self._open.release()

    def handle(self) -> Handle:
        """What the model's request object holds on to."""
        return Handle(self)

    def send(self, response: Any, final: bool) -> None:
        """Sends an InferenceResponse, or with None only the final mark. TritonModelException where that is out of turn."""
        with self._lock:
            if not self._backend.config.decoupled:
                if response is None and not self._sent:
                    raise self._backend.utils.TritonModelException(_NO_RESPONSE)
                if response is not None and self._sent:
                    raise self._backend.utils.TritonModelException(_SECOND_RESPONSE)
                final = True
            self._put(self._converted(response, final))

    def returned_nothing(self) -> None:
        """`execute` gave None for this request: its sender answers, now or later, if the model took it."""
        if not self._backend.config.decoupled and not self.taken:
            text = "the model returned None for a request whose response sender it did not take"
            self.fail(Failure(text, "BAD_OUTPUT"))

    def abandoned(self) -> None:
        """The model holds neither the request nor its sender any more."""
        self.fail(Failure(_LET_GO, "BAD_OUTPUT"))

    def fail(self, failure: Failure) -> bool:
        """Ends the request with an error; False where it is over."""
        with self._lock:
            if self.over:
                return False
            self._put(Response(error=failure))
            return True

    def drop(self) -> None:
        """Called by the garbage collector, which may interrupt any code: so nothing is done here that takes a lock."""
        self._backend.dropped.put(self)

    def _put(self, response: Response) -> None:
        if self.over:
            return
        self._sent += 1
        try:
            self._respond(self._index, response)
        finally:
            if response.final:
                self.over = True
                self._open.release()
            if response.error is not None:
                self._backend.failed()

    def _converted(self, response: Any, final: bool) -> Response:
        """A model's InferenceResponse for the wire; an error of the conversion is this request's alone."""
        if response is None:
            return Response(parameters={FINAL_MARK: True}, final=True)
        error = response.error()
        if error is not None:
            names: tuple[str, ...] = importlib.import_module("triton_python_backend_utils._errors").NAMES
            return Response(error=Failure(error.message(), names[error.code()], by_model=True), final=final)
        wanted = self._wanted
        try:
            tensors = [each.to_wire() for each in response.output_tensors() if not wanted or each.name() in wanted]
        except Exception as problem:  # noqa: BLE001 - arrays and DLPack objects are the model's
            return Response(
                error=Failure(f"an output cannot be sent: {text_of(problem)}", "BAD_OUTPUT", detail=trace_of(problem))
            )
        return Response(tensors, parameters=dict(response.scalars), final=final)


class Handle:
    """Held by a request that a model received and by its response sender; when both are gone, so is the last way to answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def take(self) -> None:
        self._answer.taken = True

    def send(self, response: Any, final: bool) -> None:
        self._answer.send(response, final)

    def __del__(self) -> None:
        if not self._answer.over:
            self._answer.drop()
