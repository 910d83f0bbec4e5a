"""Backend: what runs a model. Who calls what, when, and where.

All of this happens in a worker process, on its main thread, for one model instance:

    load(model)                  once, before the worker reports ready; raises to refuse (the text reaches the operator)
    execute(requests, respond)   once for each batch; never concurrently with itself
    unload()                     once, when the worker is asked to stop; not called when it is killed

`execute` calls `respond(index, response)` for each request of the batch. A response with `final=True` ends that request;
earlier ones with `final=False` are sent at once (streaming). A backend may keep `respond` and call it after `execute`
returned (decoupled models), from any thread; the batch is over when every request had its final response. An exception out
of `execute` fails exactly the requests that had none yet. Tensors and parts of the requests are views of shared memory that
are valid until their request's final response.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from .tensor import Buffer, Tensor

if TYPE_CHECKING:
    from ..server.repository.config import ModelConfig

Parameter = str | int | float | bool

#: The parameter by which an empty final response says that the model ended its stream without another response.
FINAL_MARK = "triton_final_response"


def _never() -> bool:
    return False


class Part(msgspec.Struct):
    """One named piece of a TorchServe-style request: a form field, or the whole body under the name `body`."""

    name: str
    data: Buffer
    content_type: str = ""


class Request(msgspec.Struct):
    """One client's request as a backend sees it: `tensors` (Open Inference Protocol, or a codec's) or `parts` (a handler's).

    `rows` is the size of the batch axis (1 for models without one). `outputs` names the outputs wanted, empty = all.
    `headers` and `explain`/`describe` in them are TorchServe's request headers, for handlers. `is_cancelled()` tells whether
    the client went away since.
    """

    id: str = ""
    tensors: list[Tensor] = []
    parts: list[Part] = []
    headers: Mapping[str, str] = {}
    parameters: Mapping[str, Parameter] = {}
    outputs: tuple[str, ...] = ()
    rows: int = 1
    is_cancelled: Callable[[], bool] = _never

    def tensor(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


@dataclass(slots=True)
class Failure:
    """An error of one request; the fields are those of `server.errors.ModelFailed`. `detail` is for the log (traceback)."""

    message: str
    code: str = "INTERNAL"
    status: int = 0
    by_model: bool = False
    detail: str = ""


class Response(msgspec.Struct):
    """One answer: `tensors`, or a handler's `body` with status, reason phrase and headers; or an `error`.

    An error that is not final is one response of a stream which goes on after it (decoupled Python models).
    """

    tensors: list[Tensor] = []
    body: Buffer | None = None
    status: int = 200
    reason: str = ""
    headers: Mapping[str, str] = {}
    parameters: Mapping[str, Parameter] = {}
    error: Failure | None = None
    final: bool = True

    @property
    def only_ends(self) -> bool:
        """Whether it is no response of the model, but only says that there are no more."""
        return self.final and self.error is None and not self.tensors and FINAL_MARK in self.parameters


Respond = Callable[[int, Response], None]


@dataclass(slots=True)
class Instance:
    """Where this worker runs its model: `device` is "cpu" or "cuda:N"; `threads` is its share of the machine's cores."""

    name: str
    kind: str = "KIND_CPU"
    gpu: int | None = None
    threads: int = 1

    @property
    def device(self) -> str:
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"


class Host(Protocol):
    """What a worker process offers its backend besides batches. Any thread of the worker may call it."""

    def emit(self, kind: str, payload: Mapping[str, Any], held: bool = False) -> None:
        """Sends an event to the server, `payload` being plain data: kind "metric" for handlers' and models' own metrics.

        With `held` it travels together with an answer, which must be about to follow.
        """

    def infer(self, model: str, version: str, request: Request, timeout_s: float | None = None) -> Iterator[Response]:
        """Runs another model of this server and yields its responses (Triton's BLS); `version` "" = the served default."""

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        """Asks the server to load or unload a model, or whether it is ready: verbs "load", "unload", "is_ready"."""


class DeviceLost(RuntimeError):
    """The device cannot be used any more by this process (a device-side assert, an illegal access).

    A backend raises it out of `execute`; the worker fails what it holds and ends, so that a fresh one takes its place.
    """


class Backend(ABC):
    """One loaded model instance. See the module's page for the order of calls. `host` is set before `load`.

    `durations` are nanoseconds of the last `execute`: preparing inputs, running the model, preparing outputs; zeros where
    the backend cannot tell them apart.
    """

    host: Host
    durations: tuple[int, int, int] = (0, 0, 0)

    @abstractmethod
    def load(self, model: ModelConfig, instance: Instance) -> None:
        """Loads the model and brings it to the device; raises with a sentence that names the file and the reason."""

    @abstractmethod
    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        """Runs one batch and answers each of its requests."""

    def unload(self) -> None:  # noqa: B027 - optional hook
        """Releases what `load` took, where the end of the process does not."""
