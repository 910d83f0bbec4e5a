"""Envelope `kservev2`: the Open Inference Protocol's JSON around a handler that gets the list of inputs."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from jitney.backends.tensor import NUMPY_DTYPES, datatype_of

from .single import SingleEnvelope


class KServev2Envelope(SingleEnvelope):
    """Inputs arrive as numpy arrays of their shape (BYTES: the first element). The outputs are named as the inputs, by index."""

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._body: dict[str, Any] = {}

    def parse_input(self, data: Any) -> Any:
        self._body = self.body(data)
        inputs = self._body.get("inputs")
        if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
            raise ValueError('expected a list "inputs" of objects with name, shape, datatype and data')
        return [_value(entry) for entry in inputs]

    def format_output(self, data: Any) -> Any:
        names = [entry.get("name", "") for entry in self._body["inputs"]]
        outputs = [_output(names[index] if index < len(names) else "", value) for index, value in enumerate(data)]
        response = {
            "id": self._body.get("id") or self.context.get_request_id(0),
            "model_name": self.context.model_name,
            "model_version": str((self.context.manifest or {}).get("model", {}).get("modelVersion", "1.0")),
            "outputs": outputs,
        }
        return [response]


def _value(entry: dict[str, Any]) -> Any:
    datatype = entry.get("datatype")
    if datatype == "BYTES":
        return entry["data"][0]
    if datatype not in NUMPY_DTYPES:
        raise ValueError(f"input '{entry.get('name')}' has datatype {datatype!r}; expected one of {', '.join(NUMPY_DTYPES)}")
    return np.array(entry["data"], dtype=NUMPY_DTYPES[datatype]).reshape(entry["shape"])


def _output(name: str, value: Any) -> dict[str, Any]:
    """One output: numbers flattened, with a shape of one dimension, as TorchServe; anything else as JSON text."""
    torch = sys.modules.get("torch")  # not imported for handlers that do without
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "biuf":
        return {
            "name": name,
            "datatype": datatype_of(array.dtype),
            "data": array.reshape(-1).tolist(),
            "shape": [array.size],
        }
    texts = [value] if isinstance(value, str) else [json.dumps(value)]
    return {"name": name, "datatype": "BYTES", "data": texts, "shape": [1]}
