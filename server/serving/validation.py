"""Whether a request's tensors fit the model: names, counts, datatypes, shapes, batch size, byte sizes.

Pure functions. The checks, their order and their texts are Triton's (`InferenceRequest::Normalize`): requested outputs, number
of inputs, batch axis, batch size, then for each input its datatype, shape and bytes. Stricter than Triton: a request of no rows
is refused, and one without a required input even where the number of inputs would do.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod

from ...core.errors import BatchTooWide, InvalidTensor
from ...core.model_config import ModelConfig, TensorSpec
from ...core.request import Request
from ...core.tensor import Tensor, expected_bytes

#: A tensor has fewer elements and bytes than this (Triton counts them in a signed 64-bit integer).
MAX_COUNT = 2**63 - 1

_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input "
    "shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def validate(config: ModelConfig, request: Request) -> int:
    """The rows that `request` adds to a batch (1 for a model without a batch axis).

    Raises InvalidTensor, or BatchTooWide where the rows exceed `max_batch_size`. Tensors come with the shapes of the model's
    `dims` and a leading batch axis if the model batches; an input's `reshape` is the backend's business.
    """
    if (rows := _usual(config, request)) is not None:
        return rows
    specs = {spec.name: spec for spec in config.inputs}
    _check_outputs(config, request.outputs)
    _check_names(config, request.tensors)
    _check_count(config, request.tensors)
    for tensor in request.tensors:
        if tensor.name not in specs:
            raise InvalidTensor(f"unexpected inference input '{tensor.name}' for model '{config.name}'", identify=False)
    _check_required(config, request.tensors)
    rows = _rows(config, request.tensors) if config.batches else 1
    for tensor in request.tensors:
        _check_tensor(config, specs[tensor.name], tensor)
    return rows


def _usual(config: ModelConfig, request: Request) -> int | None:
    """The rows of a request that has exactly the model's inputs in their order, and names only its outputs: no doubt is left.

    None where there is any: then the checks one by one find what is wrong, if anything is.
    """
    specs, tensors, batches = config.inputs, request.tensors, config.max_batch_size
    if not tensors or len(tensors) != len(specs) or not all(map(config.output, request.outputs)):
        return None
    rows = tensors[0].shape[0] if batches and tensors[0].shape else 1
    if not 1 <= rows <= (batches or 1):
        return None
    for spec, tensor in zip(specs, tensors, strict=True):
        shape = (rows, *spec.dims) if batches else spec.dims
        if tensor.name != spec.name or tensor.datatype != spec.datatype:
            return None
        if tensor.shape != shape and (tensor.datatype == "BYTES" or not _varies(shape, tensor.shape)):
            return None
        if tensor.datatype != "BYTES" and tensor.nbytes != expected_bytes(tensor.datatype, tensor.shape):
            return None
    for tensor in tensors:
        if tensor.datatype == "BYTES":
            check_strings(config.name, tensor)
    return rows


def _varies(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a shape without a 0 fits these dims, of which some are variable."""
    return len(dims) == len(shape) and all(size > 0 and dim in (-1, size) for dim, size in zip(dims, shape, strict=True))


def _check_outputs(config: ModelConfig, wanted: Sequence[str]) -> None:
    for name in wanted:
        if config.output(name) is None:
            raise InvalidTensor(f"unexpected inference output '{name}' for model '{config.name}'", identify=False)


def _check_names(config: ModelConfig, tensors: Sequence[Tensor]) -> None:
    if len({tensor.name for tensor in tensors}) == len(tensors):
        return
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise InvalidTensor(f"input '{tensor.name}' already exists in request")
        seen.add(tensor.name)


def _check_count(config: ModelConfig, tensors: Sequence[Tensor]) -> None:
    if not sum(not spec.optional for spec in config.inputs) <= len(tensors) <= len(config.inputs):
        raise _wrong_inputs(config, tensors)


def _check_required(config: ModelConfig, tensors: Sequence[Tensor]) -> None:
    """Triton lets optional inputs stand in for required ones, as many as are missing; the model then fails."""
    given = {tensor.name for tensor in tensors}
    if not all(spec.optional or spec.name in given for spec in config.inputs):
        raise _wrong_inputs(config, tensors)


def _wrong_inputs(config: ModelConfig, tensors: Sequence[Tensor]) -> InvalidTensor:
    required = [spec.name for spec in config.inputs if not spec.optional]
    most, given = len(config.inputs), {tensor.name for tensor in tensors}
    expected = f"{most} inputs" if len(required) == most else f"number of inputs between {len(required)} and {most}"
    missing = [name for name in required if name not in given]
    # Triton drops the opening bracket where nothing is missing; its users' log filters know the text like this.
    return InvalidTensor(
        f"expected {expected} but got {len(tensors)} inputs for model '{config.name}'. Got input(s) {_quoted(sorted(given))}, "
        f"but missing required input(s) {_quoted(missing) if missing else ']'}. Please provide all required input(s)."
    )


def _quoted(names: Sequence[str]) -> str:
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _rows(config: ModelConfig, tensors: Sequence[Tensor]) -> int:
    rows: int | None = None
    for tensor in tensors:
        if not tensor.shape:
            raise InvalidTensor(f"input '{tensor.name}' has no shape but model requires batch dimension for '{config.name}'")
        if rows is None:
            rows = tensor.shape[0]
        elif tensor.shape[0] != rows:
            raise InvalidTensor(f"input '{tensor.name}' batch size does not match other inputs for '{config.name}'")
    if rows is None:
        return 1  # every input is optional and none was given
    if rows > config.max_batch_size:
        raise BatchTooWide(config.name, rows, config.max_batch_size)
    if rows < 1:
        raise InvalidTensor(f"inference request batch-size must be >= 1 for '{config.name}', got {rows}")
    return rows


def _check_tensor(config: ModelConfig, spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidTensor(
            f"inference input '{spec.name}' data-type is '{tensor.datatype}', but model '{config.name}' expects "
            f"'{spec.datatype}'"
        )
    _check_shape(config, spec, tensor)
    if tensor.datatype == "BYTES":
        check_strings(config.name, tensor)
    else:
        _check_bytes(config, tensor)


def _check_shape(config: ModelConfig, spec: TensorSpec, tensor: Tensor) -> None:
    dims = tensor.shape[1:] if config.batches else tensor.shape
    if len(dims) == len(spec.dims) and -1 in dims:
        raise InvalidTensor(
            f"All input dimensions should be specified for input '{spec.name}' for model '{config.name}', got "
            f"{_dims(tensor.shape)}"
        )
    fits = len(dims) == len(spec.dims) and all(want in (-1, got) for want, got in zip(spec.dims, dims, strict=True))
    if not fits or min(dims, default=0) < 0:
        expected = (-1, *spec.dims) if config.batches else spec.dims
        raise InvalidTensor(
            f"unexpected shape for input '{spec.name}' for model '{config.name}'. Expected {_dims(expected)}, got "
            f"{_dims(tensor.shape)}. {_BATCH_NOTE if config.batches else ''}"
        )
    if prod(tensor.shape) > MAX_COUNT:
        raise InvalidTensor(
            f"input '{spec.name}' for model '{config.name}': the shape {_dims(tensor.shape)} causes total element count to "
            f"exceed maximum size of {MAX_COUNT}"
        )


def _dims(dims: Sequence[int]) -> str:
    return "[" + ",".join(str(dim) for dim in dims) + "]"


def _check_bytes(config: ModelConfig, tensor: Tensor) -> None:
    expected = expected_bytes(tensor.datatype, tensor.shape)
    if tensor.nbytes != expected:
        raise InvalidTensor(
            f"input byte size mismatch for input '{tensor.name}' for model '{config.name}'. Expected {expected}, got "
            f"{tensor.nbytes}"
        )


def check_strings(model: str, tensor: Tensor) -> None:
    """Raises InvalidTensor unless a BYTES tensor holds exactly as many length-prefixed elements as its shape says."""
    expected = prod(tensor.shape)
    if expected == 1 and tensor.nbytes >= 4 and struct.unpack_from("<I", tensor.data)[0] == tensor.nbytes - 4:
        return  # the usual one
    view, at, found = memoryview(tensor.data).cast("B"), 0, 0
    size, where = len(view), f"for inference input '{tensor.name}' for model '{model}'"
    while at < size:
        if found == expected:
            raise InvalidTensor(f"unexpected number of string elements {found + 1} {where}, expecting {expected}")
        if at + 4 > size:
            raise InvalidTensor(
                f"incomplete string length indicator {where}, expecting 4 bytes but only {size - at} bytes available. Please "
                "make sure the string length indicator is in one buffer."
            )
        (length,) = struct.unpack_from("<I", view, at)
        at += 4 + length
        if at > size:
            raise InvalidTensor(
                f"incomplete string data {where}, expecting string of length {length} but only "
                f"{size - at + length} bytes available"
            )
        found += 1
    if found != expected:
        raise InvalidTensor(f"expected {expected} string elements {where}, got {found}")
