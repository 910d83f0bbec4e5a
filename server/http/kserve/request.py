"""Reading an infer request: JSON, JSON with binary tensors behind it, or the raw bytes of a model's only input.

Only syntax and the request's own consistency are checked here; whether it fits the model is `server.validation`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ....core.errors import InvalidRequest, InvalidTensor
from ....core.model_config import ModelConfig
from ....core.request import Request
from ....core.tensor import DATATYPES, NUMPY_DTYPES, Tensor, pack_bytes
from .documents import Document, checked, dump, member, optional, parse, unsigned
from .parameters import Parameters
from .parameters import read as read_parameters
from .shm import ClientRegions, Place
from .tensors import MAX_RANK, from_json, to_json

_SOURCES = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', 'shared_memory_region' in "
    "'parameters'."
)


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """How one requested output shall be sent. `binary_data_output` of the request counts for none that is named (Triton)."""

    name: str
    binary: bool = False
    classes: int = 0
    place: Place | None = None


@dataclass(slots=True)
class InferRequest:
    """An infer request, taken apart. `wanted` is empty where all outputs are."""

    request: Request
    parameters: Parameters = field(default_factory=Parameters)
    wanted: dict[str, WantedOutput] = field(default_factory=dict)


def header_length(value: str | None, size: int) -> int | None:
    """The length of the JSON part by `Inference-Header-Content-Length`, None where the header is absent.

    0 makes a raw request. Raises InvalidRequest for what is no number, and for lengths outside of the body of `size` bytes.
    """
    if value is None:
        return None
    try:
        length = int(value)
    except ValueError:
        raise InvalidRequest(f"Unable to parse Inference-Header-Content-Length, got: {value}") from None
    if not 0 <= length <= size:
        raise InvalidRequest(f"inference header size should be in range (0, {size}), got: {length}")
    return length


# -- JSON, with or without binary tensors --------------------------------------------------------------------------------


class Reader:
    """Reads one JSON request. The tensors it makes are views of `body` where they are binary."""

    def __init__(self, model: str, body: bytes | memoryview, length: int | None, regions: ClientRegions) -> None:
        view = memoryview(body)
        self._model, self._regions = model, regions
        self._document = parse(body if length is None else view[:length])
        self._binary = view[len(body) if length is None else length :]
        self._at = 0

    @property
    def id(self) -> str:
        """The request's id, "" where it has none."""
        found: str = optional(self._document, "id", str, "")
        return found

    def read(self) -> InferRequest:
        """The whole request; raises InvalidRequest."""
        parameters = (
            read_parameters(checked(self._document["parameters"], "parameters", dict))
            if "parameters" in self._document
            else Parameters()
        )
        tensors = [self._input(entry) for entry in _objects(self._document, "inputs")]
        if self._at != len(self._binary):
            raise InvalidRequest(f"unexpected additional input data for model '{self._model}'")
        outputs = _objects(self._document, "outputs") if "outputs" in self._document else []
        wanted = {output.name: output for output in map(self._output, outputs)}
        request = Request(id=self.id, tensors=tensors, parameters=parameters.for_model(), outputs=tuple(wanted))
        return InferRequest(request, parameters, wanted)

    def _input(self, entry: Document) -> Tensor:
        name, shape = member(entry, "name", str), _shape(entry)
        datatype = member(entry, "datatype", str)
        if datatype not in DATATYPES:
            raise InvalidRequest(f"invalid datatype for input {name}")
        if "parameters" not in entry and "data" in entry:
            return from_json(name, datatype, shape, entry["data"])
        parameters = _parameters(entry)
        _check_sizes(parameters)
        self._check_source(entry, parameters)
        if "data" in entry:
            return from_json(name, datatype, shape, entry["data"])
        if "binary_data_size" in parameters:
            return Tensor(
                name, datatype, shape, self._take(name, unsigned(parameters["binary_data_size"], "binary_data_size"))
            )
        return Tensor(name, datatype, shape, self._place(parameters).read())

    def _check_source(self, entry: Document, parameters: Document) -> None:
        given = [key for key in ("data",) if key in entry]
        given += [key for key in ("binary_data_size", "shared_memory_region") if key in parameters]
        if not given:
            raise InvalidRequest(f"{_SOURCES} But no field is set")
        if len(given) > 1:
            raise InvalidRequest(f"{_SOURCES} But set " + " ".join(f"'{key}'" for key in given))

    def _take(self, name: str, size: int) -> memoryview:
        """The next `size` bytes of the binary part."""
        left = len(self._binary) - self._at
        if size > left:
            raise InvalidRequest(
                f"unexpected size for input '{name}', expecting {size - left} additional bytes for model '{self._model}'"
            )
        self._at += size
        return self._binary[self._at - size : self._at]

    def _place(self, parameters: Document) -> Place:
        region = checked(parameters["shared_memory_region"], "shared_memory_region", str)
        offset = unsigned(parameters.get("shared_memory_offset", 0), "shared_memory_offset")
        if "shared_memory_byte_size" not in parameters:
            raise InvalidRequest("Unable to parse 'shared_memory_byte_size': it is required with 'shared_memory_region'")
        return self._regions.place(
            region, offset, unsigned(parameters["shared_memory_byte_size"], "shared_memory_byte_size")
        )

    def _output(self, entry: Document) -> WantedOutput:
        name = member(entry, "name", str)
        parameters = _parameters(entry)
        classes = unsigned(parameters.get("classification", 0), "classification")
        binary = optional(parameters, "binary_data", bool, False)
        if "shared_memory_region" not in parameters:
            _check_sizes(parameters)
            return WantedOutput(name, binary, classes)
        for key in ("classification", "binary_data"):
            if parameters.get(key):
                raise InvalidRequest(f"Output can't set both 'shared_memory_region' and '{key}'")
        return WantedOutput(name, place=self._place(parameters))


def _objects(document: Document, name: str) -> Sequence[Document]:
    """The array `name`, each of whose elements must be an object."""
    entries = member(document, name, list)
    for entry in entries:
        if type(entry) is not dict:
            raise InvalidRequest(f"Unable to parse '{name}': attempt to access JSON non-object as object")
    found: Sequence[Document] = entries
    return found


def _parameters(entry: Document) -> Document:
    """A tensor's parameters; null is none, which is what clients write that have a field for them (Triton)."""
    found: Document = {} if entry.get("parameters") is None else checked(entry["parameters"], "parameters", dict)
    return found


def _check_sizes(parameters: Document) -> None:
    """Also where no region is named, and they have no effect (Triton)."""
    for name in ("shared_memory_offset", "shared_memory_byte_size"):
        if name in parameters:
            unsigned(parameters[name], name)


def _shape(entry: Document) -> tuple[int, ...]:
    sizes: list[Any] = member(entry, "shape", list)
    if len(sizes) > MAX_RANK:
        raise InvalidRequest(f"Unable to parse 'shape': it has {len(sizes)} dimensions, the maximum is {MAX_RANK}")
    return tuple([unsigned(size, "shape") for size in sizes])


def as_json(asked: InferRequest) -> bytes:
    """The request as one JSON document, its tensors as flat lists; InvalidRequest for datatypes that JSON cannot carry."""
    inputs = [
        {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "data": to_json(tensor)}
        for tensor in asked.request.tensors
    ]
    document = {"id": asked.request.id, "parameters": asked.parameters.custom, "inputs": inputs}
    return dump({name: value for name, value in document.items() if value or name == "inputs"})


# -- raw bytes -----------------------------------------------------------------------------------------------------------


def read_raw(config: ModelConfig, body: bytes | memoryview) -> InferRequest:
    """The whole body as the only input of a model; all outputs are wanted, in binary.

    The batch size is 1, and one variable dimension is deduced from the size; BYTES need the shape [1] and are one element.
    Raises InvalidTensor where that is not possible.
    """
    if len(config.inputs) != 1:
        text = f"Raw request must only have 1 input (found 1) to be deduced but got {len(config.inputs)} inputs"
        raise InvalidTensor(f"{text} in '{config.name}' model configuration")
    spec = config.inputs[0]
    batch = (1,) if config.batches else ()
    if spec.datatype == "BYTES":
        if prod(spec.dims) != 1 or len(spec.dims) != 1:
            raise InvalidTensor(f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
        tensor = Tensor(spec.name, "BYTES", (*batch, 1), pack_bytes([bytes(body)]))
    else:
        item = NUMPY_DTYPES[spec.datatype].itemsize
        tensor = Tensor(spec.name, spec.datatype, batch + _deduced(spec.name, spec.dims, len(body) // item), body)
    return InferRequest(Request(tensors=[tensor]), Parameters(binary_output=True))


def _deduced(name: str, dims: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """`dims` with its variable dimension replaced by what `elements` elements make of it."""
    if dims.count(-1) > 1:
        text = f"The shape of the raw input '{name}' can not be deduced because there are more than one variable-sized dimension"
        raise InvalidTensor(text)
    others = prod(dim for dim in dims if dim != -1)
    return tuple(elements // others if dim == -1 else dim for dim in dims)
