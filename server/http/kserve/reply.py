"""Writing an infer reply: JSON, or JSON with binary tensors behind it, or outputs in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....core.holding import COUNTED
from ....core.model_config import ModelConfig
from ....core.request import Response
from ....core.tensor import Buffer, Tensor
from ...ipc.memory import flat
from .classification import classify
from .documents import dump
from .parameters import own
from .request import InferRequest, WantedOutput
from .tensors import to_json

#: How outputs are sent that the client did not name, without and with `binary_data_output`.
_UNNAMED = WantedOutput(""), WantedOutput("", binary=True)


@dataclass(slots=True)
class InferReply:
    """A reply's body; `header_length` is the length of its JSON part where tensors follow, else None. Where they are large, they
    are in `rest`, which follows `body`."""

    body: bytes
    header_length: int | None = None
    rest: Sequence[memoryview] = ()


def render(config: ModelConfig, version: str, asked: InferRequest, response: Response) -> InferReply:
    """The reply to `asked`; outputs come in the model's order, pruned to those that were requested (Triton).

    Writes outputs into shared memory where the request says so. Raises InvalidRequest where an output cannot be sent in the
    form that the client asked for.
    """
    document: dict[str, Any] = {}
    if asked.request.id:
        document["id"] = asked.request.id
    document["model_name"] = config.name
    document["model_version"] = version
    if response.parameters and (parameters := own(response.parameters)):
        document["parameters"] = parameters
    binary: list[Buffer] = []
    document["outputs"] = [
        _output(config, asked, tensor, binary)
        for tensor in response.tensors
        if not asked.wanted or tensor.name in asked.wanted
    ]
    header = dump(document)
    nbytes = sum([memoryview(data).nbytes for data in binary])
    if not nbytes:  # as in Triton: tensors without a byte make no binary reply
        return InferReply(header)
    if nbytes <= COUNTED:
        return InferReply(b"".join((header, *binary)), len(header))
    return InferReply(header, len(header), [flat(data) for data in binary])


def _output(config: ModelConfig, asked: InferRequest, tensor: Tensor, binary: list[Buffer]) -> dict[str, Any]:
    wanted = asked.wanted[tensor.name] if asked.wanted else _UNNAMED[asked.parameters.binary_output]
    if wanted.classes:
        spec = config.output(tensor.name)
        tensor = classify(tensor, wanted.classes, spec.labels if spec else (), config.batches)
    document: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if wanted.place is not None:
        wanted.place.write(tensor.name, tensor.data)
    elif wanted.binary:
        document["parameters"] = {"binary_data_size": tensor.nbytes}
        binary.append(tensor.data)
    else:
        document["data"] = to_json(tensor)
    return document
