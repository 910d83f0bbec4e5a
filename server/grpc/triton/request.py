"""Reading a ModelInferRequest. Syntax and the request's own consistency; whether it fits the model is `serving.validation`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from ....core.errors import InvalidRequest
from ....core.request import Request
from ....core.tensor import DATATYPES, Buffer, Tensor
from ...http.kserve.request import InferRequest, WantedOutput
from ...http.kserve.shm import ClientRegions, Place
from .. import schema, wire
from . import contents
from . import parameters as request_parameters

#: What Triton calls a datatype that it does not know.
_UNKNOWN = "<invalid>"
#: The field of ModelInferRequest that holds tensors as bytes.
_RAW = 7


class Reader:
    """One request, parsed. `raw`: its tensors as bytes, as they lie in what came in where they are large."""

    def __init__(self, data: bytes) -> None:
        self.message, self.raw = parse(data)

    @property
    def id(self) -> str:
        found: str = self.message.id
        return found

    @property
    def model(self) -> str:
        found: str = self.message.model_name
        return found

    def read(self, regions: ClientRegions) -> tuple[InferRequest, bool]:
        """The request, and whether it wants to be told the end of a stream by an answer of its own. InvalidRequest."""
        message = self.message
        given = request_parameters.read(message.parameters)
        raw = iter(self.raw)
        tensors = [self._input(entry, raw, regions) for entry in message.inputs]
        wanted = {entry.name: _output(entry, regions) for entry in message.outputs}
        request = Request(message.id, tensors, parameters=given.parameters.for_model(), outputs=tuple(wanted))
        return InferRequest(request, given.parameters, wanted), given.empty_final

    def _input(self, entry: Any, raw: Any, regions: ClientRegions) -> Tensor:
        datatype = entry.datatype if entry.datatype in DATATYPES else _UNKNOWN
        return Tensor(entry.name, datatype, tuple(entry.shape), self._data(entry, datatype, raw, regions))

    def _data(self, entry: Any, datatype: str, raw: Any, regions: ClientRegions) -> Buffer:
        where = f"input tensor '{entry.name}' for model '{self.model}'"
        place = _place(entry, regions) if entry.parameters else None
        if place is not None:
            if entry.HasField("contents"):
                raise InvalidRequest(f"unexpected 'content' provided when using shared memory for {where}")
            return place.read()
        if entry.HasField("contents"):
            if self.raw:
                raise InvalidRequest(
                    f"contents field must not be specified when using raw_input_contents for '{entry.name}' for model "
                    f"'{self.model}'"
                )
            return contents.read(entry, datatype, self.model)
        data: Buffer | None = next(raw, None)
        if data is None:
            raise InvalidRequest(f"unable to find data for {where} in request.")
        return data


def parse(data: bytes) -> tuple[Any, Sequence[Buffer]]:
    """A serialized ModelInferRequest as a message, and its raw tensors; InvalidRequest where it is none."""
    kind = schema.triton().message("inference.ModelInferRequest")
    large = wire.split(data, _RAW) if len(data) > wire.LARGE else None
    try:
        if large is not None:
            return kind.FromString(large[0]), large[1]
        message = kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the request is no ModelInferRequest: {error}") from None
    return message, message.raw_input_contents


def _output(entry: Any, regions: ClientRegions) -> WantedOutput:
    if not entry.parameters:
        return WantedOutput(entry.name)
    place, classes = _place(entry, regions), 0
    if "classification" in entry.parameters:
        classes = _classes(entry.parameters["classification"])
        if place is not None:
            raise InvalidRequest("output can't set both 'shared_memory_region' and 'classification'")
    return WantedOutput(entry.name, classes=classes, place=place)


def _classes(parameter: Any) -> int:
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidRequest("invalid value type for 'classification' parameter, expected int64_param")
    if parameter.int64_param <= 0:
        raise InvalidRequest("invalid value for 'classification' parameter, expected >= 1")
    return int(parameter.int64_param)


def _place(entry: Any, regions: ClientRegions) -> Place | None:
    """Where in shared memory a tensor is, None where it is not there."""
    if "shared_memory_region" not in entry.parameters:
        for name in ("shared_memory_offset", "shared_memory_byte_size"):
            if name in entry.parameters:
                raise InvalidRequest(
                    f"'{name}' can not be specified without 'shared_memory_region' parameter for tensor '{entry.name}'"
                )
        return None
    region = _value(entry, "shared_memory_region", "string_param")
    offset = _value(entry, "shared_memory_offset", "int64_param") if "shared_memory_offset" in entry.parameters else 0
    if "shared_memory_byte_size" not in entry.parameters:
        raise InvalidRequest(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor "
            f"'{entry.name}'"
        )
    size = _value(entry, "shared_memory_byte_size", "int64_param")
    if offset < 0 or size < 0:
        raise InvalidRequest(f"Invalid offset + byte size for shared memory region: '{region}'")
    return regions.place(region, offset, size)


def _value(entry: Any, name: str, kind: str) -> Any:
    parameter = entry.parameters[name]
    if parameter.WhichOneof("parameter_choice") != kind:
        raise InvalidRequest(f"invalid value type for '{name}' parameter for tensor '{entry.name}', expected {kind}.")
    return getattr(parameter, kind)
