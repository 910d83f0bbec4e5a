"""What flows through an ensemble: tensors with their batch axes and sequences, and which steps they reach. Pure functions.

The rules are those of Triton's core (`EnsembleContext`, ensemble_scheduler.cc).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ...core.errors import ModelFailed
from ...core.model_config import ModelConfig, TensorSpec
from ...core.request import Parameter, Request, Response
from ...core.tensor import Tensor, reshaped

_ID, _FLAGS = "triton_sequence_id", "triton_flags"
#: Bits of `triton_flags`, and the parameter of a response that names each.
_BITS = {"sequence_start": 1, "sequence_end": 2}


@dataclass(frozen=True)
class Step:
    """One step: which model, and how its tensors are named in the ensemble. `version` None = the served default."""

    model: str
    version: str | None
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Membership:
    """To which sequence a request or a response belongs; an `id` of 0 or "" is none. `flags`: bits of start and end."""

    id: Parameter = 0
    flags: int = 0

    @classmethod
    def of_request(cls, request: Request) -> Membership:
        return cls(request.parameters.get(_ID, 0), int(request.parameters.get(_FLAGS, 0)))

    def of_response(self, response: Response, model: str) -> Membership:
        """The membership that a step's response says itself; this one, its request's, where it says nothing (Triton)."""
        said = response.parameters
        if not said.keys() & {"sequence_id", *_BITS}:
            return self
        found = said.get("sequence_id", self.id)
        if isinstance(found, bool | float):
            raise ModelFailed(
                f"model '{model}': expected parameter 'sequence_id' to be a string or an integer", "INVALID_ARG"
            )
        for name in _BITS:
            if not isinstance(said.get(name, False), bool):
                raise ModelFailed(f"model '{model}': expected parameter '{name}' to be a boolean", "INVALID_ARG")
        return Membership(found, sum(bit for name, bit in _BITS.items() if said.get(name)))

    def for_request(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """A request's parameters with this membership in the place of another."""
        others = {name: value for name, value in parameters.items() if name not in (_ID, _FLAGS)}
        return others | {name: value for name, value in ((_ID, self.id), (_FLAGS, self.flags)) if value}

    def for_response(self) -> dict[str, Any]:
        """What an ensemble's response says of the sequence, also where there is none."""
        return {"sequence_id": self.id} | {name: bool(self.flags & bit) for name, bit in _BITS.items()}


@dataclass(frozen=True, slots=True)
class Flowing:
    """A tensor of one run.

    tensor      None where the client left an optional input out, or a step gave no such output
    rows        the size of its maker's batch axis; 0 = its maker has none
    membership  None for the ensemble's inputs
    """

    tensor: Tensor | None
    rows: int
    membership: Membership | None = None


def entering(config: ModelConfig, request: Request) -> dict[str, Flowing]:
    """The ensemble's inputs as the steps see them: those of a request, and optional ones that it leaves out."""
    rows = request.rows if config.batches else 0
    absent = {spec.name: Flowing(None, rows) for spec in config.inputs if spec.optional}
    return absent | {
        tensor.name: Flowing(_shaped(tensor, rows, config.input(tensor.name), inward=True), rows)
        for tensor in request.tensors
    }


def for_step(found: Flowing, given: str, model: ModelConfig) -> Tensor | None:
    """A tensor as the step's model takes it under its own name; None where it was left out."""
    spec = model.input(given)
    if found.tensor is None:
        return None
    shape = found.tensor.shape if spec is None else _fitted(found.tensor.shape, found.rows, spec.dims, model.batches)
    return Tensor(given, found.tensor.datatype, shape, found.tensor.data)


def leaving(config: ModelConfig, name: str, found: Flowing, rows: int) -> Tensor | None:
    """A tensor as the ensemble answers it; `rows` are those of the ensemble's request, 0 = it has no batch axis."""
    spec, tensor = config.output(name), found.tensor
    if tensor is None or spec is None:
        return tensor
    dims = spec.dims if spec.reshape is None else spec.reshape
    shape = _fitted(tensor.shape, found.rows, dims, rows != 0)
    return _shaped(Tensor(name, tensor.datatype, shape, tensor.data), rows, spec, inward=False)


def _fitted(shape: tuple[int, ...], rows: int, dims: Sequence[int], batches: bool) -> tuple[int, ...]:
    """Between makers and takers of which only one has a batch axis (Triton's `ReshapeTensorDims`): a batch axis of 1 is put
    before a shape that fits without; one of 1 is taken away from a shape that does not fit with it. Else as it is."""
    fits = len(shape) == len(dims) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
    if batches and rows == 0 and fits:
        return (1, *shape)
    if not batches and rows == 1 and not fits:
        return shape[1:]
    return shape


def _shaped(tensor: Tensor, rows: int, spec: TensorSpec | None, *, inward: bool) -> Tensor:
    """The tensor with its `reshape` applied, towards the steps or back to the client."""
    if spec is None or spec.reshape is None:
        return tensor
    here, there = (spec.dims, spec.reshape) if inward else (spec.reshape, spec.dims)
    shape = reshaped(tensor.shape, int(rows != 0), here, there)
    if prod(shape) != prod(tensor.shape):  # a step made another shape than the ensemble declares: it is shown
        return tensor
    return Tensor(tensor.name, tensor.datatype, shape, tensor.data)


def needed(steps: Sequence[Step], wanted: Collection[str]) -> list[Step]:
    """The steps without which the wanted tensors would not come; Triton does not run the others."""
    makers = {name: step for step in steps for name in step.outputs.values()}
    found: list[Step] = []
    visit = list(wanted)
    while visit:
        step = makers.get(visit.pop())
        if step is not None and step not in found:
            found.append(step)
            visit += step.inputs.values()
    return [step for step in steps if step in found]
