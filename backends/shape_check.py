"""What a model file says of a tensor against what the configuration says, in the words of Triton's ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .options import CannotLoad

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig, TensorSpec


def check_datatype(model: ModelConfig, spec: TensorSpec, side: str, theirs: str) -> None:
    """CannotLoad where the model's datatype (KServe's name, or its own where there is none) is not the configuration's."""
    if theirs != spec.datatype:
        raise CannotLoad(f"{side} '{spec.name}' of model '{model.name}' is {theirs}, but configured as {spec.datatype}")


def check_shape(model: ModelConfig, spec: TensorSpec, symbolic: Sequence[Any] | None) -> None:
    """CannotLoad for another rank, another size, or a batch axis that is fixed in the model.

    `symbolic` is the model's complete shape, where a size that is no int may differ; None where even its rank may.
    """
    if symbolic is None:
        return
    shape = [size if isinstance(size, int) else -1 for size in symbolic]
    declared = [*([-1] if model.batches else []), *(spec.dims if spec.reshape is None else spec.reshape)]
    fits = len(shape) == len(declared) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(shape, declared, strict=True)
    )
    if fits and not (model.max_batch_size > 1 and shape[0] not in (-1,)):
        return
    complete = f"making complete shape {declared}"
    note = (
        f" (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, {complete})"
        if model.batches
        else f", {complete}"
    )
    raise CannotLoad(
        f"model '{model.name}', tensor '{spec.name}': the model expects {len(shape)} dimensions (shape {shape}) "
        f"but the model configuration specifies {len(declared)} dimensions{note}"
    )


def shows_scalar(model: ModelConfig, spec: TensorSpec) -> bool:
    """Whether clients may see a scalar of the model as this tensor: one element, because a tensor has dims.

    Any number of dims, all of them 1, as in Triton's ONNX Runtime backend (`ModelInstanceState::ValidateInputs`).
    """
    return not model.batches and spec.reshape is None and set(spec.dims) == {1}


def with_scalars(model: ModelConfig, inputs: Collection[str], outputs: Collection[str]) -> ModelConfig:
    """`model`, whose tensors of these names have the shape [] inside where clients see sizes of 1."""

    def reshaped(specs: Sequence[TensorSpec], names: Collection[str]) -> tuple[TensorSpec, ...]:
        shown = (spec.name in names and shows_scalar(model, spec) for spec in specs)
        return tuple(replace(spec, reshape=()) if is_scalar else spec for spec, is_scalar in zip(specs, shown, strict=True))

    return replace(model, inputs=reshaped(model.inputs, inputs), outputs=reshaped(model.outputs, outputs))
