"""From the outputs of one run to each request's answer: checked, in the shape that clients see, split by rows."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.request import Request
from ..core.tensor import Tensor, reshaped
from .input_check import brackets
from .stacking import Array, split

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig, TensorSpec


class BadOutput(ValueError):
    """The model answered with tensors that cannot be handed on; halving the batch would only hide it."""


def finished(
    model: ModelConfig, outputs: dict[str, Array], inputs: dict[str, Array], padded: int, rows: int
) -> dict[str, Array]:
    """Checks the model's outputs and gives them the shape that clients see; BadOutput names what is wrong."""
    found = {}
    for spec in model.outputs:
        if spec.name not in outputs:
            names = ", ".join(outputs) or "none"
            raise BadOutput(f"model '{model.name}' gave no output '{spec.name}', it gave: {names}")
        output = outputs[spec.name]
        _check(model, spec, output, padded)
        values = reshape(model, spec, output.values, inward=False)
        values = values[:rows] if padded > rows else values
        if any(np.may_share_memory(values, given.values) for given in inputs.values()):
            values = values.copy()  # the answer outlives the request's memory and the batch buffer
        found[spec.name] = Array(output.datatype, values)
    return found


def _check(model: ModelConfig, spec: TensorSpec, output: Array, rows: int) -> None:
    shape = output.values.shape
    if output.datatype != spec.datatype:
        said = f"unexpected datatype {output.datatype} for inference output '{spec.name}' of model '{model.name}'"
        raise BadOutput(f"{said}, expecting {spec.datatype}")
    if model.batches and (not shape or shape[0] != rows):
        expected = brackets((rows, *(spec.dims if spec.reshape is None else spec.reshape)))
        raise BadOutput(
            f"output '{spec.name}' of model '{model.name}' has shape {brackets(shape)} for a batch of {rows} rows, "
            f"expected {expected}: its first dimension must be the batch axis (or set max_batch_size: 0)"
        )


def reshape(model: ModelConfig, spec: TensorSpec | None, values: npt.NDArray[Any], inward: bool) -> npt.NDArray[Any]:
    """Between the shape clients see (`dims`) and the model's (`reshape`): -1 stand for the same sizes, in order."""
    if spec is None or spec.reshape is None:
        return values
    here, there = (spec.dims, spec.reshape) if inward else (spec.reshape, spec.dims)
    target = reshaped(values.shape, int(model.batches), here, there)
    if prod(target) != values.size:
        raise BadOutput(f"tensor '{spec.name}' of shape {brackets(values.shape)} cannot be reshaped to {brackets(target)}")
    return values.reshape(target)


def split_outputs(
    model: ModelConfig, outputs: Mapping[str, Array], rows: list[int], requests: list[Request]
) -> list[list[Tensor]]:
    """Each request's rows of the outputs it wants, as views of the batch's outputs."""
    if model.batches and len(requests) > 1:
        parts = [split(name, array, rows) for name, array in outputs.items()]
        answers = [list(tensors) for tensors in zip(*parts, strict=True)]
    else:
        answers = [[Tensor.from_numpy(name, array.values, array.datatype) for name, array in outputs.items()]]
    for at, request in enumerate(requests):
        if request.outputs:
            answers[at] = [tensor for tensor in answers[at] if tensor.name in request.outputs]
    return answers
