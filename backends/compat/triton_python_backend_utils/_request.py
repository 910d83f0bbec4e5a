"""Requests: those that a model receives, and those that it sends to other models (business logic scripting)."""

from __future__ import annotations

import asyncio
import enum
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from jitney.core import request as plain

from ._arguments import INT64, UINT32, UINT64, WrongArgument, elements, integer, text
from ._arguments import parameters as checked_parameters
from ._errors import TritonError, TritonModelException
from ._response import InferenceResponse, InferenceResponseSender, Sink, tensor
from ._tensor import Tensor
from ._worker import current

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2

#: Parameters by which the server hands over what is not the client's own; clients cannot send names that begin so.
RESERVED = "triton_"


class MemoryType(enum.IntEnum):
    """Kinds of memory, with the numbers of TRITONSERVER_MemoryType."""

    TRITONSERVER_MEMORY_CPU = 0
    TRITONSERVER_MEMORY_GPU = 2


TRITONSERVER_MEMORY_CPU, TRITONSERVER_MEMORY_GPU = MemoryType


class PreferredMemory:
    """Where the outputs of a request to another model are wanted. Outputs always arrive on the CPU here."""

    def __init__(self, preferred_memory_type: int = TRITONSERVER_MEMORY_CPU, preferred_device_id: int = 0) -> None:
        try:
            self.preferred_memory_type = MemoryType(preferred_memory_type)
        except ValueError:
            wanted = "TRITONSERVER_MEMORY_CPU or TRITONSERVER_MEMORY_GPU"
            raise WrongArgument(f"preferred_memory_type must be {wanted}, got {preferred_memory_type!r}") from None
        self.preferred_device_id = integer(preferred_device_id, "preferred_device_id", INT64)


class InferenceTrace:
    """A request's trace; tracing is off."""

    def get_context(self) -> str | None:
        """The trace's context: None, as in Triton where there is none (pb_stub.cc)."""
        return None


_NO_TRACE = InferenceTrace()


class Handle(Sink, Protocol):
    """A received request's way back; see `backends.python_answer`."""

    def take(self) -> None:
        """The model asked for the response sender."""


class InferenceRequest:
    """One request. `flags` are the TRITONSERVER_REQUEST_FLAG_SEQUENCE constants, `timeout` is in microseconds.

    It bounds how long the request may wait in its model's queue, where the model lets requests say so, not how long its answer
    may take.

    `model_name` has to be given, as in Triton; its place among the arguments is Triton's too.
    """

    # What a received request has where the client gave nothing.
    _correlation_id: int | str = 0
    _flags = _timeout = 0
    _model, _version = "", -1

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str | None = None,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._id, self._correlation_id = text(request_id, "request_id"), _correlation(correlation_id)
        self._inputs = elements(inputs, "inputs", tensor)
        self._outputs = set(elements(requested_output_names, "requested_output_names", text))
        self._model, self._version = text(model_name, "model_name"), integer(model_version, "model_version", INT64)
        self._flags, self._timeout = integer(flags, "flags", UINT32), integer(timeout, "timeout", UINT64)
        if not isinstance(preferred_memory, PreferredMemory | None):
            raise WrongArgument(f"preferred_memory must be a PreferredMemory, got {type(preferred_memory).__name__}")
        if not isinstance(trace, InferenceTrace | None):
            raise WrongArgument(f"trace must be an InferenceTrace, got {type(trace).__name__}")
        self._trace = trace or InferenceTrace()
        self._parameters: dict[str, Any] = dict(checked_parameters(parameters))
        _refuse_reserved(self._parameters)
        self._handle: Handle | None = None
        self._source = plain.Request()

    @classmethod
    def received(cls, source: plain.Request, outputs: Sequence[str], handle: Handle) -> InferenceRequest:
        """A client's request as the model sees it; `outputs` are those wanted, all of them where the client named none."""
        made = cls.__new__(cls)  # what the server sends needs none of `__init__`'s checks
        made._id, made._parameters, made._trace = source.id, {}, _NO_TRACE
        made._inputs, made._outputs = [Tensor.from_wire(each) for each in source.tensors], set(outputs)
        made._handle, made._source = handle, source
        if hidden := source.parameters:
            correlation = hidden.get("triton_sequence_id", 0)
            made._correlation_id = correlation if isinstance(correlation, int | str) else 0
            made._flags, made._timeout = int(hidden.get("triton_flags", 0)), int(hidden.get("triton_timeout", 0))
            made._parameters = {name: value for name, value in hidden.items() if not name.startswith(RESERVED)}
        return made

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> set[str]:
        """The outputs that are wanted, without an order (a set since Triton's pb_stub.cc has one)."""
        return self._outputs

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = integer(flags, "flags", UINT32)

    def timeout(self) -> int:
        return self._timeout

    def parameters(self) -> str:
        """The client's own parameters as a JSON object."""
        return json.dumps(self._parameters, separators=(",", ":"), ensure_ascii=False)

    def trace(self) -> InferenceTrace:
        return self._trace

    def is_cancelled(self) -> bool:
        return self._source.is_cancelled()

    def get_response_sender(self) -> InferenceResponseSender:
        if self._handle is None:
            raise TritonModelException("Only a request that the model received has a response sender")
        self._handle.take()
        return InferenceResponseSender(self._handle, self._source.is_cancelled)

    def set_release_flags(self, flags: int) -> None:
        if integer(flags, "flags", UINT32) != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException("a request cannot be rescheduled: iterative sequences are not supported")

    # -- to other models -------------------------------------------------------------------------------------------------

    def exec(self, decoupled: bool = False) -> Any:
        """Runs the named model: one InferenceResponse, or an iterator of them with `decoupled=True`. Errors are in it."""
        responses = ResponseIterator(self._responses(ends=decoupled))
        if decoupled:
            return responses
        found = list(itertools.islice(responses, 2))
        if len(found) != 1:
            responses.cancel()
            times = "more than once" if found else "without a response"
            text = f"model '{self._model}' answered {times}; use exec(decoupled=True) for such a model"
            return InferenceResponse(error=TritonError(text))
        return found[0]

    def async_exec(self, decoupled: bool = False) -> asyncio.Future[Any]:
        """Like `exec`, for `async def execute`: a future, which is under way at once and with others (pb_stub.cc)."""
        return asyncio.get_running_loop().run_in_executor(None, self.exec, decoupled)

    def _responses(self, ends: bool) -> Iterator[InferenceResponse]:
        """The responses as they come; with `ends` also an empty one, where the model sent the final flag alone (Triton)."""
        version = "" if self._version < 0 else str(self._version)
        try:
            responses = current().host.infer(self._model, version, self._to_other())
        except TritonModelException:
            raise
        except Exception as error:  # noqa: BLE001 - whatever cannot be sent becomes the response's error
            return iter([InferenceResponse(error=TritonError(str(error)))])
        return (_from_plain(response) for response in responses if ends or not response.only_ends)

    def _to_other(self) -> plain.Request:
        parameters: dict[str, plain.Parameter] = dict(self._parameters)
        hidden = {"sequence_id": self._correlation_id, "flags": self._flags, "timeout": self._timeout}
        parameters |= {RESERVED + name: value for name, value in hidden.items() if value}
        tensors = [each.to_wire() for each in self._inputs]
        return plain.Request(self._id, tensors, parameters=parameters, outputs=tuple(self._outputs))


class ResponseIterator:
    """The responses of another model, as they come; `cancel` wants no more of them.

    Iterated once more after the last one, it gives them all again (pb_response_iterator.cc).
    """

    def __init__(self, responses: Iterator[InferenceResponse]) -> None:
        self._responses = responses
        self._given: list[InferenceResponse] = []
        self._again: Iterator[InferenceResponse] | None = None

    def __iter__(self) -> ResponseIterator:
        if self._again is not None:
            self._again = iter(self._given)
        return self

    def __next__(self) -> InferenceResponse:
        if self._again is not None:
            return next(self._again)
        try:
            self._given.append(next(self._responses))
        except StopIteration:
            self._again = iter(())
            raise
        return self._given[-1]

    def cancel(self) -> None:
        close = getattr(self._responses, "close", None)
        self._responses = iter(())
        if close is not None:
            close()


def _from_plain(response: plain.Response) -> InferenceResponse:
    """The code of another model's error is lost, as in Triton: passed on to the client it is INTERNAL."""
    if response.error is not None:
        return InferenceResponse(error=TritonError(response.error.message))
    own = {name: value for name, value in response.parameters.items() if not name.startswith(RESERVED)}
    return InferenceResponse.received([Tensor.from_wire(each) for each in response.tensors], own)


def _correlation(value: Any) -> int | str:
    """Triton's rule (pb_stub.cc); numpy integers are taken as well."""
    if isinstance(value, str | bytes | bytearray):
        return text(value, "correlation_id")
    try:
        return integer(value, "correlation_id", UINT64)
    except WrongArgument as error:
        raise WrongArgument(f"Correlation ID must be integer or string: {error}") from None


def _refuse_reserved(parameters: Mapping[str, Any]) -> None:
    for name in parameters:
        if name.startswith(RESERVED):
            raise TritonModelException(f"parameter {name!r}: names that begin with {RESERVED!r} are the server's own")


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input of this name, or None (an optional input that the client left out)."""
    for each in inference_request.inputs():  # for every request: a generator costs twice as much
        if each.name() == name:
            return each
    return None
