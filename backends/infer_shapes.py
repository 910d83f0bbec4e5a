"""Shapes and datatypes of a TorchScript model, which its file does not declare: read from its weights and tried out.

An input that goes straight into a layer with weights has that layer's number of features or channels, and its datatype: a
linear layer of 512 features takes [-1, 512], a convolution of 3 channels [-1, 3, -1, -1], an embedding INT64 indices. Image
sizes are tried: where only one of the usual sizes runs, the model takes that one; where several run, the size is open. What
the outputs look like, the trial runs tell. Where any of this fails, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core.tensor import datatype_of

Shape = list[int]

#: Sizes tried for an open axis, most usual first; two that run mean that the size is open.
SIZES = (32, 224, 28, 64, 8, 96, 128, 256, 299)
BATCHES = (2, 3)
_TRANSPARENT = frozenset({"aten::to", "aten::contiguous", "aten::detach", "aten::float", "aten::type_as", "aten::alias"})


def infer(module: Any) -> tuple[dict[str, tuple[str, Shape]], list[tuple[str, Shape]]] | None:
    """(datatype, shape) of each input by name and of each output in order; None where they cannot be found out.

    Shapes have the batch axis, as -1. `module` is a loaded ScriptModule on the CPU.
    """
    frozen = torch.jit.freeze(module.eval())
    inputs: dict[str, tuple[torch.dtype, Shape]] = {}
    for value, argument in zip(list(frozen.graph.inputs())[1:], module.forward.schema.arguments[1:], strict=True):
        found = _first_layer(value)
        if found is None:
            return None
        inputs[argument.name] = found
    ran = _trials(module, inputs)
    if not ran:
        return None
    sizes = list(ran)
    described = {name: (_name(dtype), _settled(shape, sizes)) for name, (dtype, shape) in inputs.items()}
    outputs = _outputs([outputs for runs in ran.values() for outputs in runs])
    return None if outputs is None else (described, outputs)


def _first_layer(value: Any) -> tuple[torch.dtype, Shape] | None:
    """What the first layer with weights says of the tensor that it takes."""
    uses = value.uses()
    if len(uses) != 1:
        return None
    node = uses[0].user
    if node.kind() in _TRANSPARENT:
        return _first_layer(node.output())
    arguments = list(node.inputs())
    constants = [argument.toIValue() if argument.node().kind() == "prim::Constant" else None for argument in arguments]
    match node.kind():
        case "aten::linear" if isinstance(weight := constants[1], torch.Tensor):
            return weight.dtype, [-1, weight.shape[1]]
        case "aten::embedding" if isinstance(constants[0], torch.Tensor):
            return torch.int64, [-1, -1]
        case "aten::conv1d" | "aten::conv2d" | "aten::conv3d" | "aten::_convolution" if isinstance(
            weight := constants[1], torch.Tensor
        ):
            groups = constants[6 if node.kind() != "aten::_convolution" else 8]
            return weight.dtype, [-1, weight.shape[1] * int(groups or 1), *[-1] * (weight.dim() - 2)]
    return None


def _trials(module: Any, inputs: Mapping[str, tuple[torch.dtype, Shape]]) -> dict[int, list[list[torch.Tensor]]]:
    """Sizes at which the model runs, with its outputs for each of `BATCHES`; two sizes are enough to know."""
    ran: dict[int, list[list[torch.Tensor]]] = {}
    has_open_sizes = any(-1 in shape[1:] for _, shape in inputs.values())
    for size in SIZES if has_open_sizes else SIZES[:1]:
        try:
            with torch.inference_mode():
                ran[size] = [_tensors(module(*_zeros(inputs, batch, size))) for batch in BATCHES]
        except RuntimeError:
            continue  # a size that does not fit this model
        if len(ran) == 2:
            break
    return ran


def _zeros(inputs: Mapping[str, tuple[torch.dtype, Shape]], batch: int, size: int) -> list[torch.Tensor]:
    return [
        torch.zeros([batch, *(size if each < 0 else each for each in shape[1:])], dtype=dtype)
        for dtype, shape in inputs.values()
    ]


def _tensors(returned: Any) -> list[torch.Tensor]:
    found = [returned] if isinstance(returned, torch.Tensor) else list(returned)
    if not all(isinstance(each, torch.Tensor) for each in found):
        raise RuntimeError("the model returns something else than tensors")
    return found


def _settled(shape: Shape, sizes: Sequence[int]) -> Shape:
    """The shape with the only size that ran, or with the size open where two did."""
    return [shape[0], *(sizes[0] if each < 0 and len(sizes) == 1 else each for each in shape[1:])]


def _outputs(runs: Sequence[Sequence[torch.Tensor]]) -> list[tuple[str, Shape]] | None:
    """Each output with -1 where its size differed between the runs; None where their ranks did."""
    described = []
    for tensors in zip(*runs, strict=True):
        ranks = {tensor.dim() for tensor in tensors}
        if len(ranks) != 1:
            return None
        sizes = [{tensor.shape[axis] for tensor in tensors} for axis in range(ranks.pop())]
        described.append((_name(tensors[0].dtype), [each.pop() if len(each) == 1 else -1 for each in sizes]))
    return described


def _name(dtype: torch.dtype) -> str:
    return "BF16" if dtype is torch.bfloat16 else datatype_of(torch.empty(0, dtype=dtype).numpy().dtype)
