"""`json`: nested lists, objects of inputs, or KServe v2 JSON in; JSON out. The codec of models that name no other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import orjson

from ...server.errors import InvalidRequest, Unsupported
from ...server.repository.config import TensorSpec
from ..base import Part, Response
from ..tensor import Buffer, Tensor
from .arrays import tensor_from_json, to_python
from .base import Codec, Encode, bad_output, load_json, main_part, refuse_explanation

#: `{"inputs": [{`: nested lists hold no objects, so only a KServe v2 request contains this outside of a string.
_KSERVE = re.compile(rb'"inputs"\s*:\s*\[\s*\{')


class JsonCodec(Codec):
    """Input, in the part `data` or `body` whatever its content type, or one form field for each input:

        [[1, 2], [3, 4]]                                           models with one input
        {"x": [[1, 2]], "y": [3]}                                  an object by input names
        {"inputs": [{"name", "shape", "datatype", "data"}]}        KServe v2

    With a batch axis (`max_batch_size` > 0) a list of the input's own rank is one row, a list of one rank more is rows.
    Answers the output's nested list (always with the batch axis, where there is one), an object by output names where there
    are several, and KServe v2 JSON to KServe v2 JSON.
    """

    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        refuse_explanation(self.config, headers)
        if not self.config.inputs:
            raise Unsupported(f"model '{self.config.name}' declares no inputs, so JSON cannot be turned into its tensors")
        values = self._fields(parts)
        if values is None:
            body = load_json(main_part(parts).data)
            if isinstance(body, dict) and isinstance(body.get("inputs"), list) and _objects(body["inputs"]):
                return self._complete(self._from_kserve(body))
            values = self._by_name(body)
        return self._complete([self._tensor(self._spec(name), value) for name, value in values.items()])

    def _fields(self, parts: Sequence[Part]) -> dict[str, Any] | None:
        """Form fields that are named as the inputs are, parsed; None where the request is not of that kind."""
        names = {part.name for part in parts}
        if not names or any(self.config.input(name) is None for name in names):
            return None
        return {part.name: load_json(part.data) for part in parts}

    def _by_name(self, body: Any) -> dict[str, Any]:
        if isinstance(body, dict):
            return body
        required = [spec for spec in self.config.inputs if not spec.optional]
        if len(required) == 1:
            return {required[0].name: body}
        raise InvalidRequest(f"the model has several inputs; expected a JSON object with {self._names()}")

    def _spec(self, name: Any) -> TensorSpec:
        spec = self.config.input(name) if isinstance(name, str) else None
        if spec is None:
            raise InvalidRequest(f"unexpected input {name!r}; model '{self.config.name}' has {self._names()}")
        return spec

    def _names(self) -> str:
        return ", ".join(f"'{spec.name}'" for spec in self.config.inputs)

    def _tensor(self, spec: TensorSpec, value: Any) -> Tensor:
        tensor = tensor_from_json(spec, value)
        rank = len(spec.dims)
        if self.config.batches and len(tensor.shape) == rank:
            tensor.shape = (1, *tensor.shape)
        return self._checked(spec, tensor)

    def _checked(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        shape = tensor.shape[1:] if self.config.batches else tensor.shape
        fits = len(shape) == len(spec.dims) and all(want in (-1, got) for want, got in zip(spec.dims, shape, strict=True))
        if not fits or (self.config.batches and not tensor.shape):
            wanted = f"{[-1, *spec.dims]} (or one row of {list(spec.dims)})" if self.config.batches else list(spec.dims)
            raise InvalidRequest(f"unexpected shape for input '{spec.name}': expected {wanted}, got {list(tensor.shape)}")
        return tensor

    def _complete(self, tensors: list[Tensor]) -> list[Tensor]:
        found = {tensor.name for tensor in tensors}
        missing = [spec.name for spec in self.config.inputs if not spec.optional and spec.name not in found]
        if missing:
            raise InvalidRequest(f"input '{missing[0]}' is missing; model '{self.config.name}' has {self._names()}")
        return tensors

    # -- KServe v2 -------------------------------------------------------------------------------------------------------

    def _from_kserve(self, body: dict[str, Any]) -> list[Tensor]:
        for key in ("outputs", "parameters"):
            if body.get(key):
                raise InvalidRequest(f"'{key}' is not supported here; use /v2/models/{self.config.name}/infer")
        names = [entry.get("name") for entry in body["inputs"]]
        if len({str(name) for name in names}) != len(names):
            raise InvalidRequest("an input is given twice")
        return [self._kserve_input(entry) for entry in body["inputs"]]

    def _kserve_input(self, entry: dict[str, Any]) -> Tensor:
        spec = self._spec(entry.get("name"))
        if entry.get("datatype", spec.datatype) != spec.datatype:
            raise InvalidRequest(f"input '{spec.name}' is {spec.datatype}, the request says {entry['datatype']!r}")
        if "data" not in entry:
            raise InvalidRequest(f"input '{spec.name}' has no 'data'")
        tensor = tensor_from_json(spec, entry["data"])
        if "shape" in entry:
            tensor.shape = _reshaped(tensor, entry["shape"])
        elif self.config.batches and len(tensor.shape) == len(spec.dims):
            tensor.shape = (1, *tensor.shape)
        return self._checked(spec, tensor)

    # -- answers ---------------------------------------------------------------------------------------------------------

    def encoder(self, parts: Sequence[Part]) -> Encode:
        for part in parts:
            if part.name in ("data", "body") and _is_kserve(part.data):
                return self._encode_kserve
        return self.encode

    def encode(self, response: Response) -> Response:
        values = {tensor.name: self._python(tensor) for tensor in response.tensors}
        if not values:
            raise bad_output(self.config, "no tensor at all")
        return _with_json(response, next(iter(values.values())) if len(values) == 1 else values)

    def _encode_kserve(self, response: Response) -> Response:
        outputs = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "data": _flat(self._python(tensor)),
            }
            for tensor in response.tensors
        ]
        named = {"model_name": self.config.name, "model_version": self.config.version}
        return _with_json(response, {**named, "outputs": outputs})

    def _python(self, tensor: Tensor) -> Any:
        try:
            return to_python(tensor)
        except UnicodeDecodeError:
            raise bad_output(self.config, f"output '{tensor.name}' holds bytes that are not UTF-8 text") from None


def _objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _is_kserve(data: Buffer) -> bool:
    return bytes(memoryview(data)[:64]).lstrip()[:1] == b"{" and _KSERVE.search(data) is not None


def _reshaped(tensor: Tensor, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise InvalidRequest(f"input '{tensor.name}': 'shape' must be a list of whole numbers from 0, got {shape!r}")
    if prod(shape) != prod(tensor.shape):
        raise InvalidRequest(
            f"input '{tensor.name}': 'shape' {shape} does not fit the {prod(tensor.shape)} elements of 'data'"
        )
    return tuple(shape)


def _flat(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.reshape(-1)
    flat: list[Any] = np.asarray(value, dtype=object).reshape(-1).tolist()
    return flat


def _with_json(response: Response, value: Any) -> Response:
    response.body = _dumps(value)
    response.headers = {"content-type": "application/json", **response.headers}
    return response


def _dumps(value: Any) -> bytes:
    """Compact JSON. NaN and infinities are written as Python's json does (NaN, Infinity), where orjson would say null."""
    if _all_finite(value):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=lambda array: array.tolist()).encode()


def _all_finite(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, dict):
        return all(_all_finite(inner) for inner in value.values())
    return not (isinstance(value, list) and value and isinstance(value[0], dict)) or all(map(_all_finite, value))
