"""`InputCheck`: whether a request carries a model's inputs, and which requests can be stacked with each other.

Requests come in few shapes, again and again, so what was found of a shape is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.request import Request
from ..core.tensor import Tensor
from .stacking import BadInput

if TYPE_CHECKING:
    from ..codecs import Pixels
    from ..core.model_config import ModelConfig

StackKey = tuple[tuple[str, tuple[int, ...]], ...]
"""Input names with their shapes behind the batch axis: requests of the same key can be stacked."""

#: Shapes that are remembered; a model with free dimensions may see any number.
_REMEMBERED = 1024


class InputCheck:
    """For one model. `pixels` names the input whose rows may be bytes yet to be normalised."""

    def __init__(self, model: ModelConfig, pixels: Pixels | None) -> None:
        self._model, self._pixels = model, pixels
        self._lead = int(model.batches)
        self._known: dict[object, StackKey] = {}

    def key(self, request: Request) -> StackKey:
        """BadInput where `request` does not carry the model's inputs."""
        tensors, lead = request.tensors, self._lead
        shapes = tuple([(tensor.name, tensor.datatype, len(tensor.shape), tensor.shape[lead:]) for tensor in tensors])
        key = self._known.get(shapes)
        if key is None:
            self._check(tensors)
            key = tuple(sorted((tensor.name, tensor.shape[1:]) for tensor in tensors))
            if len(self._known) == _REMEMBERED:
                self._known.clear()
            self._known[shapes] = key
        if lead and len(tensors) > 1:
            self._check_rows(tensors)
        return key

    def _check(self, tensors: Sequence[Tensor]) -> None:
        model = self._model
        for tensor in tensors:
            spec = model.input(tensor.name)
            if spec is None:
                allowed = ", ".join(item.name for item in model.inputs)
                raise BadInput(f"unexpected inference input '{tensor.name}' for model '{model.name}', allowed: {allowed}")
            if tensor.datatype != spec.datatype and not is_pixels(self._pixels, tensor.name, tensor.datatype):
                said = f"inference input '{tensor.name}' data-type is '{tensor.datatype}'"
                raise BadInput(f"{said}, but model '{model.name}' expects '{spec.datatype}'")
            rank = len(spec.dims) + self._lead
            if len(tensor.shape) != rank:
                found = f"shape {brackets(tensor.shape)} of input '{tensor.name}'"
                raise BadInput(f"{found} has {len(tensor.shape)} dimensions, model '{model.name}' expects {rank}")
        named = {tensor.name for tensor in tensors}
        missing = [spec.name for spec in model.inputs if not spec.optional and spec.name not in named]
        if missing or not named:
            raise BadInput(f"request lacks input {', '.join(missing) or '(all)'} of model '{model.name}'")

    def _check_rows(self, tensors: Sequence[Tensor]) -> None:
        if len({tensor.shape[0] for tensor in tensors}) > 1:
            shapes = ", ".join(f"'{tensor.name}' {brackets(tensor.shape)}" for tensor in tensors)
            raise BadInput(f"inputs of model '{self._model.name}' differ in their batch axis: {shapes}")


def is_pixels(pixels: Pixels | None, name: str, datatype: str) -> bool:
    """Whether these are a codec's rows that are yet to be normalised."""
    return pixels is not None and name == pixels.name and datatype == "UINT8"


def brackets(shape: Sequence[int]) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"
