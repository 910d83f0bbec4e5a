"""Writing a ModelInferResponse, alone or in a stream. Outputs are raw bytes, or lie in shared memory, as in Triton."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....core.model_config import ModelConfig
from ....core.request import Parameter, Response
from ....core.tensor import Buffer, Tensor
from ...http.kserve.classification import classify
from ...http.kserve.request import InferRequest
from .. import schema, wire
from . import parameters

#: Fields of ModelInferResponse and ModelStreamInferResponse that are written by hand.
_RAW, _INFER = 6, 2


def render(config: ModelConfig, asked: InferRequest, response: Response, final: bool | None = None) -> bytes:
    """A serialized ModelInferResponse; `final`: what a stream says of it, None outside of one.

    Outputs come in the model's order, pruned to those that were asked for. Writes outputs into shared memory where the request
    says so: their entries in `raw_output_contents` are empty then. InvalidRequest where an output cannot be sent as asked.
    """
    message = _message(config.name, config.version, asked.request.id, response.parameters, final)
    raw: list[Buffer] = []
    for tensor in response.tensors:
        if asked.wanted and tensor.name not in asked.wanted:
            continue
        tensor, data = _output(config, asked, tensor)
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        raw.append(data)
    head: bytes = message.SerializeToString()
    return wire.join(head, _RAW, raw)


def _output(config: ModelConfig, asked: InferRequest, tensor: Tensor) -> tuple[Tensor, Buffer]:
    """The tensor as it is described, and the bytes that are sent."""
    wanted = asked.wanted.get(tensor.name)
    if wanted is None:
        return tensor, tensor.data
    if wanted.classes:
        spec = config.output(tensor.name)
        tensor = classify(tensor, wanted.classes, spec.labels if spec else (), config.batches)
    if wanted.place is not None:
        wanted.place.write(tensor.name, tensor.data)
        return tensor, b""
    return tensor, tensor.data


def _message(model: str, version: str, request_id: str, given: Mapping[str, Parameter], final: bool | None) -> Any:
    message = schema.triton().message("inference.ModelInferResponse")(model_name=model, model_version=version, id=request_id)
    if given:
        parameters.write(message.parameters, given)
    if final is not None:
        parameters.mark_final(message.parameters, final)
    return message


# -- in a stream -----------------------------------------------------------------------------------------------------------


def in_stream(infer_response: bytes) -> bytes:
    """A serialized ModelStreamInferResponse with this answer."""
    return wire.join(b"", _INFER, [infer_response])


def refusal(text: str, request_id: str) -> bytes:
    """What a request gets that no model has taken."""
    infer = schema.triton().message("inference.ModelInferResponse")(id=request_id)
    return _stream(error_message=text, infer_response=infer)


def failure(text: str, model: str, version: str, request_id: str, final: bool) -> bytes:
    """What a request gets that its model failed; model and version as the request names them."""
    return _stream(error_message=text, infer_response=_message(model, version, request_id, {}, final))


def ending(model: str, version: str, request_id: str) -> bytes:
    """That there are no more responses to a request, for clients that want to be told."""
    return _stream(infer_response=_message(model, version, request_id, {}, True))


def _stream(**fields: Any) -> bytes:
    data: bytes = schema.triton().message("inference.ModelStreamInferResponse")(**fields).SerializeToString()
    return data
