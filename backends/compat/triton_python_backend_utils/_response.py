"""Answers of a Python model, and the sender for models that answer later or several times."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ._arguments import UINT32, WrongArgument, elements, integer
from ._arguments import parameters as checked_parameters
from ._errors import TritonError, TritonModelException
from ._tensor import Tensor

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class InferenceResponse:
    """The tensors of one answer, or an error; `parameters` is a dict of bool, int or str that the client sees."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._tensors, self._error = _tensors(output_tensors), error
        if error is not None and not isinstance(error, TritonError):
            raise WrongArgument(f"an InferenceResponse's error is a TritonError, got {type(error).__name__}")
        self._parameters: dict[str, Any] = dict(checked_parameters(parameters)) if parameters is not None else {}

    @classmethod
    def received(cls, tensors: list[Tensor], parameters: Mapping[str, Any]) -> InferenceResponse:
        """Another model's response, whose parameters may be numbers of any kind."""
        made = cls(tensors)
        made._parameters = dict(parameters)
        return made

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """The parameters as a JSON object."""
        return json.dumps(self._parameters)

    @property
    def scalars(self) -> Mapping[str, Any]:
        return self._parameters


def _tensors(values: Any) -> list[Tensor]:
    if type(values) is list:
        for each in values:
            if type(each) is not Tensor:
                break
        else:
            return values.copy()
    return elements(values, "output_tensors", tensor)


def tensor(value: Any, what: str) -> Tensor:
    """`value`, where it is a Tensor."""
    if not isinstance(value, Tensor):
        raise WrongArgument(f"{what} must be a pb_utils.Tensor, got {type(value).__name__}")
    return value


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The output of this name, or None; a response that is an error has none."""
    return next((each for each in inference_response.output_tensors() if each.name() == name), None)


class Sink(Protocol):
    """Where a request's responses go."""

    def send(self, response: InferenceResponse | None, final: bool) -> None: ...


class InferenceResponseSender:
    """Sends one request's answers, from any thread, until it is told that the last one was sent."""

    def __init__(self, sink: Sink, is_cancelled: Callable[[], bool]) -> None:
        self._sink, self._is_cancelled, self._closed = sink, is_cancelled, False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        flags = integer(flags, "flags", UINT32)
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException(f"Unable to send response. Unsupported flag provided: {flags}")
        if self._closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if response is None and not flags:
            raise TritonModelException("Inference Response object must be provided when the response flags is set to zero.")
        if response is not None and not isinstance(response, InferenceResponse):
            raise WrongArgument(f"a response sender takes an InferenceResponse, got {type(response).__name__}")
        self._sink.send(response, bool(flags))
        self._closed = bool(flags)

    def is_cancelled(self) -> bool:
        return self._is_cancelled()
