"""Requests: those that a model receives, and those that it sends to other models (business logic scripting)."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from jitney.backends import base

from ._errors import TritonError, TritonModelException
from ._response import InferenceResponse, InferenceResponseSender, Sink
from ._tensor import Tensor
from ._worker import current

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_GPU = 2

#: Parameters by which the server hands over what is not the client's own; clients cannot send names that begin so.
RESERVED = "triton_"


class PreferredMemory:
    """Where the outputs of a request to another model are wanted. Outputs always arrive on the CPU here."""

    def __init__(self, preferred_memory_type: int = TRITONSERVER_MEMORY_CPU, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type, self.preferred_device_id = preferred_memory_type, preferred_device_id


class InferenceTrace:
    """A request's trace; tracing is off."""

    def get_context(self) -> str:
        return ""


class Handle(Sink, Protocol):
    """A received request's way back; see `backends.python_answer`."""

    def take(self) -> None:
        """The model asked for the response sender."""


class InferenceRequest:
    """One request. `flags` are the TRITONSERVER_REQUEST_FLAG_SEQUENCE constants, `timeout` is in microseconds."""

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        if any(not isinstance(tensor, Tensor) for tensor in inputs):
            raise TritonModelException(f"InferenceRequest '{request_id}' takes a list of pb_utils.Tensor objects as inputs")
        self._id, self._correlation_id = request_id, correlation_id
        self._inputs, self._outputs = list(inputs), list(requested_output_names)
        self._model, self._version = model_name, model_version
        self._flags, self._timeout = flags, timeout
        self._trace = trace or InferenceTrace()
        self._parameters = dict(parameters or {})
        self._handle: Handle | None = None
        self._source = base.Request()

    @classmethod
    def received(cls, source: base.Request, outputs: Sequence[str], handle: Handle) -> InferenceRequest:
        """A client's request as the model sees it; `outputs` are those wanted, all of them where the client named none."""
        own = {name: value for name, value in source.parameters.items() if not name.startswith(RESERVED)}
        hidden = source.parameters
        correlation = hidden.get("triton_sequence_id", 0)
        made = cls(
            source.id,
            correlation if isinstance(correlation, int | str) else 0,
            [Tensor.from_wire(tensor) for tensor in source.tensors],
            outputs,
            flags=int(hidden.get("triton_flags", 0)),
            timeout=int(hidden.get("triton_timeout", 0)),
            parameters=own,
        )
        made._handle, made._source = handle, source
        return made

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> list[str]:
        return self._outputs

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        return self._timeout

    def parameters(self) -> str:
        """The client's own parameters as a JSON object."""
        return json.dumps(self._parameters, separators=(",", ":"))

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
        if flags != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException("a request cannot be rescheduled: iterative sequences are not supported")

    # -- to other models -------------------------------------------------------------------------------------------------

    def exec(self, decoupled: bool = False) -> Any:
        """Runs the named model: one InferenceResponse, or an iterator of them with `decoupled=True`. Errors are in it."""
        responses = ResponseIterator(self._responses())
        if decoupled:
            return responses
        found = list(itertools.islice(responses, 2))
        if len(found) != 1:
            responses.cancel()
            times = "more than once" if found else "without a response"
            text = f"model '{self._model}' answered {times}; use exec(decoupled=True) for such a model"
            return InferenceResponse(error=TritonError(text))
        return found[0]

    async def async_exec(self, decoupled: bool = False) -> Any:
        """Like `exec`, for `async def execute`: several requests may be under way at once."""
        return await asyncio.get_running_loop().run_in_executor(None, self.exec, decoupled)

    def _responses(self) -> Iterator[InferenceResponse]:
        version = "" if self._version < 0 else str(self._version)
        timeout = self._timeout / 1e6 if self._timeout else None
        try:
            responses = current().host.infer(self._model, version, self._to_other(), timeout)
        except TritonModelException:
            raise
        except Exception as error:  # noqa: BLE001 - whatever cannot be sent becomes the response's error
            return iter([InferenceResponse(error=TritonError(str(error)))])
        return (_from_base(response) for response in responses if not _says_only_that_it_was_the_last(response))

    def _to_other(self) -> base.Request:
        parameters: dict[str, base.Parameter] = dict(self._parameters)
        if self._correlation_id:
            parameters["triton_sequence_id"] = self._correlation_id
            parameters["triton_flags"] = self._flags
        tensors = [tensor.to_wire() for tensor in self._inputs]
        return base.Request(self._id, tensors, parameters=parameters, outputs=tuple(self._outputs))


class ResponseIterator:
    """The responses of another model, as they come; `cancel` wants no more of them."""

    def __init__(self, responses: Iterator[InferenceResponse]) -> None:
        self._responses = responses

    def __iter__(self) -> ResponseIterator:
        return self

    def __next__(self) -> InferenceResponse:
        return next(self._responses)

    def cancel(self) -> None:
        close = getattr(self._responses, "close", None)
        self._responses = iter(())
        if close is not None:
            close()


def _says_only_that_it_was_the_last(response: base.Response) -> bool:
    """The empty response with which a decoupled model ends."""
    ends = response.error is None and response.final and not response.tensors
    return ends and bool(response.parameters.get("triton_final_response"))


def _from_base(response: base.Response) -> InferenceResponse:
    """The code of another model's error is lost, as in Triton: passed on to the client it is INTERNAL."""
    if response.error is not None:
        return InferenceResponse(error=TritonError(response.error.message))
    own = {name: value for name, value in response.parameters.items() if not name.startswith(RESERVED)}
    return InferenceResponse([Tensor.from_wire(tensor) for tensor in response.tensors], parameters=own)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input of this name, or None (an optional input that the client left out)."""
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)
