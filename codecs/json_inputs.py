"""JSON values, and bodies as they come, to the input tensors of one model. Every misfit is an `InvalidRequest` that names it.

A value has the shape of `dims`, which is one row, or one rank more, which is rows, where the model has a batch axis. What can
be meant in one way only is taken: a lone value where `dims` has one element ([1], [-1], [1, 1]), and a list of such values
where each of them can only be a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ..core.errors import InvalidRequest
from ..core.model_config import ModelConfig, TensorSpec
from ..core.tensor import Buffer, Tensor, pack_bytes
from .arrays import tensor_from_json

#: What TensorFlow Serving's clients send beside `instances`, and the only value that means something here.
_SIGNATURE = {"signature_name": "serving_default"}


class JsonInputs:
    """Makes the tensors of one model. Keeps nothing of a request."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        required = [spec for spec in config.inputs if not spec.optional] or list(config.inputs)
        self.main = required[0] if len(required) == 1 else None
        """The input that a body stands for which names none: the only required one, or the only one."""
        self.names = ", ".join(f"'{spec.name}'" for spec in config.inputs)

    def spec(self, name: Any) -> TensorSpec:
        spec = self.config.input(name) if isinstance(name, str) else None
        if spec is None:
            raise InvalidRequest(f"unexpected input {name!r}; model '{self.config.name}' has {self.names}")
        return spec

    def by_name(self, body: Any) -> dict[str, Any]:
        """The values of a body by the names of their inputs."""
        if isinstance(body, dict) and not (self.main is not None and body.keys() == {"b64"} and not self._has("b64")):
            return body
        if self.main is not None:
            return {self.main.name: body}
        raise InvalidRequest(f"the model has several inputs; expected a JSON object with {self.names}")

    def complete(self, tensors: list[Tensor]) -> list[Tensor]:
        """`tensors` themselves where no required input is missing."""
        found = {tensor.name for tensor in tensors}
        missing = [spec.name for spec in self.config.inputs if not spec.optional and spec.name not in found]
        if missing:
            raise InvalidRequest(f"input '{missing[0]}' is missing; model '{self.config.name}' has {self.names}")
        return tensors

    def tensor(self, spec: TensorSpec, value: Any) -> Tensor:
        """One input's value, of one row or of rows."""
        tensor = tensor_from_json(spec, value)
        tensor.shape = self._meant(spec, tensor.shape)
        return self._checked(spec, tensor)

    def raw(self, spec: TensorSpec, data: Buffer) -> Tensor:
        """A BYTES input of one row with one element: these bytes."""
        if not is_single(spec):
            raise InvalidRequest(
                f"input '{spec.name}' has dims {list(spec.dims)}, and a body as it comes is one element; send the elements as "
                "JSON with Content-Type: application/json"
            )
        return Tensor(spec.name, "BYTES", (1,) * (len(spec.dims) + self.config.batches), pack_bytes([bytes(data)]))

    # -- KServe v2 ---------------------------------------------------------------------------------------------------------

    def from_kserve(self, body: dict[str, Any]) -> list[Tensor]:
        """The tensors of `{"inputs": [{"name", "shape", "datatype", "data"}]}`."""
        for key in ("outputs", "parameters"):
            if body.get(key):
                raise InvalidRequest(f"'{key}' is not supported here; use /v2/models/{self.config.name}/infer")
        names = [entry.get("name") for entry in body["inputs"]]
        if len({str(name) for name in names}) != len(names):
            raise InvalidRequest("an input is given twice")
        return self.complete([self._kserve_input(entry) for entry in body["inputs"]])

    def _kserve_input(self, entry: dict[str, Any]) -> Tensor:
        spec = self.spec(entry.get("name"))
        if entry.get("datatype", spec.datatype) != spec.datatype:
            raise InvalidRequest(f"input '{spec.name}' is {spec.datatype}, the request says {entry['datatype']!r}")
        if "data" not in entry:
            raise InvalidRequest(f"input '{spec.name}' has no 'data'")
        tensor = tensor_from_json(spec, entry["data"])
        tensor.shape = _reshaped(tensor, entry["shape"]) if "shape" in entry else self._meant(spec, tensor.shape)
        return self._checked(spec, tensor)

    # -- KServe v1 ---------------------------------------------------------------------------------------------------------

    def is_rows(self, body: dict[str, Any], key: str) -> bool:
        """Whether `body[key]` is KServe v1's list of instances: `key` is no input, and no entry describes a tensor (v2)."""
        if key not in body or self._has(key):
            return False
        rows = body[key]
        if key == "instances" or not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
            return True
        return all(self._has(name) or name == "b64" for row in rows for name in row)

    def from_instances(self, body: dict[str, Any], key: str) -> list[Tensor]:
        """The tensors of `{"instances": [row, …]}`: a row is a value, or an object by input names. One row or more."""
        if unknown := [name for name in body if name != key and not (name in _SIGNATURE and _SIGNATURE[name] == body[name])]:
            raise InvalidRequest(f"'{unknown[0]}' beside '{key}' is not supported here")
        rows = body[key]
        if not isinstance(rows, list) or not rows:
            raise InvalidRequest(f"'{key}' must be a list of at least one instance")
        columns: dict[str, list[Any]] = {}
        for number, row in enumerate(map(self.by_name, rows)):
            if number and row.keys() != columns.keys():
                raise InvalidRequest(
                    f"'{key}': instance {number} has other inputs than the first one ({', '.join(columns)})"
                )
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return self.complete([self._column(self.spec(name), values) for name, values in columns.items()])

    def _column(self, spec: TensorSpec, values: list[Any]) -> Tensor:
        """One input's values of all rows; without a batch axis they are the first axis of `dims`, or there is one row."""
        tensor = tensor_from_json(spec, values)
        row = tensor.shape[1:]
        if is_single(spec) and not row:
            row = (1,) * len(spec.dims)
        if self.config.batches:
            tensor.shape = (len(values), *row)
        elif len(values) == 1 and not _fits(spec.dims, tensor.shape):
            tensor.shape = row
        elif not _fits(spec.dims, tensor.shape) and _fits(spec.dims, row):
            raise InvalidRequest(f"model '{self.config.name}' takes one instance at a time (max_batch_size is 0)")
        return self._checked(spec, tensor)

    # -- shapes ------------------------------------------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        return self.config.input(name) is not None

    def _meant(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a value, completed where it was written with fewer brackets than the tensor has axes."""
        rank, batches = len(spec.dims), self.config.batches
        if not shape and is_single(spec):
            return (1,) * (rank + batches)
        if batches and rank and len(shape) == 1 and set(spec.dims) == {1}:
            return (*shape, *spec.dims)
        return (1, *shape) if batches and len(shape) == rank else shape

    def _checked(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        shape = tensor.shape[1:] if self.config.batches else tensor.shape
        if not _fits(spec.dims, shape) or (self.config.batches and not tensor.shape):
            wanted = f"{[-1, *spec.dims]} (or one row of {list(spec.dims)})" if self.config.batches else list(spec.dims)
            raise InvalidRequest(f"unexpected shape for input '{spec.name}': expected {wanted}, got {list(tensor.shape)}")
        return tensor


def is_single(spec: TensorSpec) -> bool:
    """Whether a row of this input may be one element."""
    return all(size in (1, -1) for size in spec.dims)


def _fits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    return shape == dims or (
        len(shape) == len(dims) and all(want in (-1, got) for want, got in zip(dims, shape, strict=True))
    )


def _reshaped(tensor: Tensor, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise InvalidRequest(f"input '{tensor.name}': 'shape' must be a list of whole numbers from 0, got {shape!r}")
    if prod(shape) != prod(tensor.shape):
        raise InvalidRequest(
            f"input '{tensor.name}': 'shape' {shape} does not fit the {prod(tensor.shape)} elements of 'data'"
        )
    return tuple(shape)
