"""`json`: nested lists, objects of inputs, KServe v1 or v2 JSON in, JSON out; one BYTES input takes a body as it comes.

The codec of models that name no other. `docs/predictions.md` says what each body means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

from ..core.errors import InvalidRequest, Unsupported
from ..core.model_config import ModelConfig, TensorSpec
from ..core.request import Part, Response
from ..core.tensor import Tensor
from .arrays import to_python
from .base import Codec, Encode, bad_output, is_json, load_json, main_part, refuse_explanation
from .json_inputs import JsonInputs

#: Names of fields, or of the body, that carry a whole request (TorchServe's).
_WHOLE = ("data", "body")
#: Of SageMaker's and TorchServe's legacy routes, whose query comes as fields: it chose the model.
_CHOSEN = "model_name"


class JsonCodec(Codec):
    """Input, in the part `data` or `body`, or one form field for each input:

        [[1, 2], [3, 4]]                                           models with one input
        {"x": [[1, 2]], "y": [3]}                                  an object by input names
        {"instances": [[1, 2], [3, 4]]}                            KServe v1, values or objects; `inputs` means the same
        {"inputs": [{"name", "shape", "datatype", "data"}]}        KServe v2
        anything                                                   models with one input, which is BYTES: one element

    Answers the output's nested list (always with the batch axis, where there is one), an object by output names where there
    are several, and KServe's JSON to KServe's JSON.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._inputs = JsonInputs(config)

    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        return self.read(parts, headers)[0]

    def read(self, parts: Sequence[Part], headers: Mapping[str, str]) -> tuple[list[Tensor], Encode]:
        refuse_explanation(self.config, headers)
        if not self.config.inputs:
            raise Unsupported(f"model '{self.config.name}' declares no inputs, so JSON cannot be turned into its tensors")
        fields = self._fields(parts)
        if fields is None:
            return self._whole(main_part(parts, f", or in fields named {self._inputs.names}"))
        tensors = [self._field(self._inputs.spec(name), part) for name, part in fields.items()]
        return self._inputs.complete(tensors), self.encode

    # -- forms -------------------------------------------------------------------------------------------------------------

    def _fields(self, parts: Sequence[Part]) -> dict[str, Part] | None:
        """Form fields by the inputs that they are for; None where one part carries the whole request."""
        if len(parts) == 1 and parts[0].name in _WHOLE:
            return None
        main, names = self._inputs.main, {part.name for part in parts}
        known = {name for name in names if self.config.input(name) is not None}
        others, whole = names - known - {*_WHOLE, _CHOSEN}, names & set(_WHOLE)
        if main is not None and len(parts) == 1 and others and parts[0].content_type:
            return {main.name: parts[0]}  # the only file of a form, whatever the field is called
        if others and (known or whole):
            raise InvalidRequest(f"unexpected field '{min(others)}'; model '{self.config.name}' has {self._inputs.names}")
        if not known or (names == whole and known != names):
            return None
        found: dict[str, Part] = {}
        for part in parts:
            name = part.name
            if name not in known:
                if name == _CHOSEN or not len(part.data):
                    continue
                name = main.name if main is not None else name
            if name in found:
                raise InvalidRequest(f"input '{name}' is given twice: field '{part.name}' stands for it too")
            found[name] = part
        return found

    def _field(self, spec: TensorSpec, part: Part) -> Tensor:
        """A field of its own: JSON, or for a BYTES input as it comes unless its content type says that it is JSON."""
        if spec.datatype == "BYTES" and not is_json(part):
            return self._inputs.raw(spec, part.data)
        return self._inputs.tensor(spec, load_json(part.data, f"field '{part.name}'"))

    def _document(self, spec: TensorSpec, part: Part) -> tuple[Any] | None:
        """A whole body's JSON value; None where it is for a BYTES input as it comes.

        The content type decides. Where the client named none, a list or an object is JSON, and all else is not.
        """
        if spec.datatype != "BYTES" or is_json(part):
            return (load_json(part.data, hint="" if is_json(part) else self._hint()),)
        if part.content_type or bytes(memoryview(part.data)[:64]).lstrip()[:1] not in (b"[", b"{"):
            return None
        try:
            return (orjson.loads(part.data),)
        except orjson.JSONDecodeError:
            return None

    def _hint(self) -> str:
        return (
            f". Model '{self.config.name}' takes {self._inputs.names} as JSON; pictures and texts as they come are for models "
            "with one input of TYPE_STRING, or with a codec"
        )

    # -- whole bodies ------------------------------------------------------------------------------------------------------

    def _whole(self, part: Part) -> tuple[list[Tensor], Encode]:
        main, inputs = self._inputs.main, self._inputs
        if main is None:
            body = load_json(part.data, hint="" if is_json(part) else self._hint())
        elif (document := self._document(main, part)) is not None:
            (body,) = document
        else:
            return inputs.complete([inputs.raw(main, part.data)]), self.encode
        if isinstance(body, dict):
            for key in ("instances", "inputs"):
                if inputs.is_rows(body, key):
                    return inputs.from_instances(body, key), partial(self._encode_predictions, len(body[key]))
            if isinstance(body.get("inputs"), list) and _objects(body["inputs"]):
                return inputs.from_kserve(body), self._encode_kserve
        values = inputs.by_name(body)
        return inputs.complete([inputs.tensor(inputs.spec(name), value) for name, value in values.items()]), self.encode

    # -- answers ---------------------------------------------------------------------------------------------------------

    def encode(self, response: Response) -> Response:
        values = {tensor.name: self._python(tensor) for tensor in response.tensors}
        if not values:
            raise bad_output(self.config, "no tensor at all")
        return with_json(response, next(iter(values.values())) if len(values) == 1 else values)

    def _encode_predictions(self, rows: int, response: Response) -> Response:
        """KServe v1's answer to `rows` instances: a value for each, an object by output names where there are several."""
        columns = {tensor.name: self._rows(tensor, rows) for tensor in response.tensors}
        if not columns:
            raise bad_output(self.config, "no tensor at all")
        if len(columns) == 1:
            return with_json(response, {"predictions": next(iter(columns.values()))})
        objects = [{name: values[row] for name, values in columns.items()} for row in range(rows)]
        return with_json(response, {"predictions": objects})

    def _rows(self, tensor: Tensor, rows: int) -> Any:
        """An output's value for each instance."""
        if tensor.shape[:1] == (rows,):
            return self._python(tensor)
        if rows != 1:
            raise bad_output(self.config, f"output '{tensor.name}' has shape {list(tensor.shape)} for {rows} instances")
        return [self._python(tensor)]

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
        return with_json(response, {**named, "outputs": outputs})

    def _python(self, tensor: Tensor) -> Any:
        try:
            return to_python(tensor)
        except UnicodeDecodeError:
            what = f"output '{tensor.name}' holds bytes that are not UTF-8 text; a codec of your own can answer them"
            raise bad_output(self.config, what) from None


def _objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _flat(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.reshape(-1)
    flat: list[Any] = np.asarray(value, dtype=object).reshape(-1).tolist()
    return flat


def with_json(response: Response, value: Any) -> Response:
    """The response with this value as its body; TypeError where JSON has no such value."""
    response.body = _dumps(value)
    response.headers = {"content-type": "application/json", **response.headers}
    return response


def _dumps(value: Any) -> bytes:
    """Compact JSON. NaN and infinities are written as Python's json does (NaN, Infinity), where orjson says null."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return text if b"null" not in text or _all_finite(value) else json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _all_finite(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_all_finite, value))
