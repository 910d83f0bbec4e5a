"""What a backend is asked and answers, whichever process holds it: requests, responses, failures, and where a model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from .tensor import Buffer, Tensor

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
    """Where this worker runs its model: `device` is "cpu" or "cuda:N"; `threads` is its share of the machine's cores; `shared`
    names the process that it shares with other models' workers, "" = it has one of its own."""

    name: str
    kind: str = "KIND_CPU"
    gpu: int | None = None
    threads: int = 1
    shared: str = ""

    @property
    def device(self) -> str:
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"
