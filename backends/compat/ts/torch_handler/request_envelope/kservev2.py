"""Envelope `kservev2`: the Open Inference Protocol's JSON around a handler (TorchServe's `request_envelope/kservev2.py`).

The handler gets the request's list of inputs, each of them the object of the request, {"name", "shape", "datatype", "data", …}:
`data` as lists nested by the shape, for BYTES its first element. `context.input_names` holds the inputs' names meanwhile. The
handler returns one element for each output; outputs are named as the inputs, by index.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np

from jitney.core.tensor import datatype_of

from .base import BaseEnvelope
from .single import SingleEnvelope

__all__ = ["BaseEnvelope", "KServev2Envelope"]

logger = logging.getLogger(__name__)


class KServev2Envelope(SingleEnvelope):
    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._id: str | None = None
        self._names: list[str] = []

    def handle(self, data: Any, context: Any) -> Any:
        try:
            return super().handle(data, context)
        finally:
            vars(context).pop("input_names", None)
            vars(context).pop("input_request_id", None)

    def parse_input(self, data: Any) -> Any:
        body = self.body(data)
        inputs = body.get("inputs")
        if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
            raise ValueError('expected a list "inputs" of objects with name, shape, datatype and data')
        rows = [_unfolded(entry) for entry in inputs]
        self._names = [entry["name"] for entry in inputs]
        logger.debug("the handler gets the inputs %s", self._names)
        self._id = _request_id(body.get("id"))
        self.context.input_names = list(self._names)
        vars(self.context).pop("input_request_id", None)
        if self._id is not None:
            self.context.input_request_id = self._id
        return rows

    def format_output(self, data: Any) -> Any:
        """Model and version are the manifest's, whatever name the model was registered with."""
        model = (self.context.manifest or {}).get("model", {})
        if len(data) > len(self._names):
            raise ValueError(f"the handler returned {len(data)} outputs, and only {len(self._names)} inputs can name them")
        outputs = [_output(name, value) for name, value in zip(self._names, data, strict=False)]
        response = {
            "id": self._id if self._id is not None else self.context.get_request_id(0),
            "model_name": model.get("modelName", getattr(self.context, "model_name", None)),
            "model_version": model.get("modelVersion"),
            "outputs": outputs,
        }
        return [response]


def _request_id(value: Any) -> str | None:
    """The client's id; None where it sent none, or white space."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f'expected text as "id", found {value!r}')
    return value if value and value.strip() else None


def _unfolded(entry: dict[str, Any]) -> dict[str, Any]:
    """The input's object with its data nested by its shape; numbers stay what JSON made of them."""
    missing = [key for key in ("name", "datatype", "data") if key not in entry]
    if missing:
        raise ValueError(f"input {entry.get('name')!r} lacks {' and '.join(missing)}")
    if entry["datatype"] == "BYTES":
        if not entry["data"]:
            raise ValueError(f"input '{entry['name']}' of datatype BYTES has no data")
        return {**entry, "data": entry["data"][0]}
    if "shape" not in entry:
        raise ValueError(f"input '{entry['name']}' lacks its shape")
    return {**entry, "data": np.array(entry["data"]).reshape(tuple(entry["shape"])).tolist()}


def _output(name: str, value: Any) -> dict[str, Any]:
    """One output, flattened to one dimension. Text, objects and None are BYTES, their values JSON's own."""
    array = _array(value).reshape(-1)
    kind = array.dtype.kind
    if kind not in "biufOU":
        raise TypeError(f"an output of {type(value).__name__} has the dtype {array.dtype}, which has no datatype")
    return {
        "name": name,
        "datatype": "BYTES" if kind in "OU" else datatype_of(array.dtype),
        "data": array.tolist(),
        "shape": [array.size],
    }


def _array(value: Any) -> np.ndarray[Any, Any]:
    torch = sys.modules.get("torch")  # not imported for handlers that do without
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype is torch.bfloat16 else value).numpy())
    try:
        return np.array(value)
    except ValueError:  # ragged lists
        return np.array(value, dtype=object)
