"""The classification extension: an output's k highest values, with their indices and labels, in place of its tensor."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ....core.errors import InvalidRequest
from ....core.tensor import Tensor, pack_bytes

_UNSUPPORTED = ("BYTES", "BF16", "BOOL")


def classify(tensor: Tensor, k: int, labels: Sequence[str], batches: bool) -> Tensor:
    """The `k` highest elements of each batch row as BYTES of shape [rows, min(k, n)], or [min(k, n)] without a batch axis.

    Elements are "value:index", or "value:index:label" where there is one, highest first; floats are printed as %f (Triton).
    Raises InvalidRequest for datatypes without an order.
    """
    if tensor.datatype in _UNSUPPORTED:
        raise InvalidRequest(f"class result not available for output due to unsupported type '{tensor.datatype}'")
    rows, shape = (tensor.shape[0], tensor.shape[1:]) if batches and tensor.shape else (1, tensor.shape)
    count = prod(shape)
    values = tensor.numpy().reshape(rows, count)
    k = min(k, count)
    # Sorting the reversed row backwards keeps equal values in the order of their indices, and NaN at the end.
    keys = np.where(np.isnan(values), -np.inf, values) if values.dtype.kind == "f" else values
    order = (count - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable"))[:, ::-1][:, :k]
    texts = [_text(values[row, index], int(index), labels) for row in range(rows) for index in order[row]]
    return Tensor(tensor.name, "BYTES", (rows, k) if batches else (k,), pack_bytes(texts))


def _text(value: np.generic, index: int, labels: Sequence[str]) -> str:
    label = labels[index] if index < len(labels) else ""
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(value)
    return f"{number}:{index}" + (f":{label}" if label else "")
