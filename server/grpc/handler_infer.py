"""How tensors reach a TorchServe handler, which knows none: as KServe v2's JSON under `body`, as its envelope `kservev2` reads.

Typed or raw tensors become lists, BYTES are in base64. The handler's answer, such JSON too, goes back as typed contents, elements
of BYTES as JSON values: as TorchServe's Open Inference Protocol service does, which ignores raw tensors. Triton's clients look
for raw contents, with text as it is.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

import orjson

from ...core.errors import InvalidRequest, WorkerDied
from ...core.request import Part
from ...core.tensor import Buffer, Tensor, pack_bytes, unpack_bytes
from ..http.kserve.documents import dump
from ..http.kserve.request import InferRequest
from ..http.kserve.tensors import from_json, to_json
from ..http.torchserve.errors import Target
from ..http.torchserve.render import new_request_id
from . import schema, wire
from .calls import Awaited, Services
from .open_calls import has_id
from .predicting import Predicting

PATH = "/inference.GRPCInferenceService/ModelInfer"
#: The field of ModelInferResponse that holds raw tensors.
_RAW = 6
#: Datatype -> the field that holds its elements.
_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class HandlerInfer:
    """Asks handlers with tensors."""

    def __init__(self, services: Services) -> None:
        self._predicting = Predicting(services)

    async def answer(self, asked: InferRequest, target: Target, context: Any, *, raw: bool) -> bytes:
        """A serialized ModelInferResponse with typed or `raw` contents; raises the request's error."""
        request_id = asked.request.id or new_request_id()
        has_id(request_id)
        awaited, began = Awaited(), time.monotonic_ns()
        call = await self._predicting.ask(target, [Part("body", _document(asked), "application/json")], awaited, {})
        try:
            body = await self._predicting.body(call, await awaited.only(), target)
        finally:
            call.cancel()
            self._predicting.traced(context, PATH, began, call, target)
        version = call.config.version if call.config is not None else target.version or ""
        return _response(body, target.model, version, request_id, raw)


def _document(asked: InferRequest) -> bytes:
    inputs = [
        {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "data": _elements(tensor)}
        for tensor in asked.request.tensors
    ]
    document = {"id": asked.request.id, "parameters": asked.parameters.custom, "inputs": inputs}
    return dump({name: value for name, value in document.items() if value or name == "inputs"})


def _elements(tensor: Tensor) -> Any:
    if tensor.datatype != "BYTES":
        return to_json(tensor)
    try:
        return [base64.b64encode(element).decode() for element in unpack_bytes(tensor.data)]
    except ValueError as error:
        raise InvalidRequest(f"input '{tensor.name}' is no valid BYTES tensor: {error}") from None


def _response(body: bytes, model: str, version: str, request_id: str, raw: bool) -> bytes:
    """TorchServe's worker dies of an answer that is no KServe v2 response; here it lives, and the client is told the same."""
    kind, pieces = schema.triton().message("inference.ModelInferResponse"), list[Buffer]()
    message = kind(model_name=model, model_version=version, id=request_id)
    try:
        outputs: Sequence[Any] = orjson.loads(body)["outputs"]
        for output in outputs:
            datatype, shape, elements = output["datatype"], output["shape"], output["data"]
            entry = message.outputs.add(name=output["name"], datatype=datatype, shape=shape)
            if not raw:
                elements = map(orjson.dumps, elements) if datatype == "BYTES" else elements
                getattr(entry.contents, _FIELDS[datatype]).extend(elements)
            elif datatype == "BYTES":
                pieces.append(pack_bytes([e if isinstance(e, str) else orjson.dumps(e) for e in elements]))
            else:
                pieces.append(from_json(output["name"], datatype, tuple(shape), elements).data)
    except (LookupError, TypeError, ValueError, InvalidRequest) as error:
        text = f"the handler's answer is no response of KServe v2 ({error}); service_envelope=kservev2 makes it one"
        raise WorkerDied(text) from None
    return wire.join(message.SerializeToString(), _RAW, pieces)
