"""Folding BatchNorm into the convolution or linear layer before it, for inference (parameter `fuse`), and checking the result.

In evaluation a BatchNorm is one multiplication and one addition for each channel, which its predecessor's weights can do as well.
The arithmetic is torch's (`torch.nn.utils.fusion`). An eager module has to be traced to find out what follows what
(`torch.fx`); a TorchScript program is frozen, which folds.

A model is refused where nothing could be folded, and where its answers on the warm-up batch differ from those of the model as it
came by more than `TOLERANCE` of the largest output, or eight steps of its type where that is more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn.utils import fusion, parametrize

from .options import CannotLoad
from .telling import text_of

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

#: Largest difference, in parts of an output's largest number, that folding may make in float32.
TOLERANCE = 1e-4
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_log = logging.getLogger(__name__)

Outputs = Mapping[str, Any]


def fused(module: nn.Module, model: ModelConfig) -> nn.Module:
    """A traced copy of an eager module in evaluation, without the BatchNorms that could be folded; CannotLoad where none could.

    Its layers are those of `module`, but for the folded ones; `module` stays as it is.
    """
    if optional := [spec.name for spec in model.inputs if spec.optional]:
        raise _refused(f"input '{optional[0]}' may be left out, and a traced module does the same for every request")
    _check_evaluation(module)
    graph = _traced(module)
    folded = _fold(graph)
    if not folded:
        raise _refused("no BatchNorm stands directly behind a convolution or linear layer of its own")
    _log.info("model '%s': %d BatchNorm layers are folded into the layers before them", model.name, folded)
    return graph


def fused_program(program: Any, before: int, model: ModelConfig) -> None:
    """Checks that freezing a TorchScript program, which had `before` BatchNorms, has folded any."""
    left = norms_of(program)
    if before <= left:
        raise _refused("freezing folded no BatchNorm of this program" if before else "this program has no BatchNorm")
    _log.info(
        "model '%s': %d of %d BatchNorm layers are folded into the layers before them", model.name, before - left, before
    )


def norms_of(program: Any) -> int:
    """BatchNorms of a TorchScript program, frozen or not."""
    return sum(1 for _ in program.inlined_graph.findAllNodes("aten::batch_norm"))


def _refused(reason: str) -> CannotLoad:
    return CannotLoad(f"parameter fuse: {reason}; set fuse to false")


def _check_evaluation(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if not isinstance(layer, _NORMS):
            continue
        if layer.training:
            raise _refused(f"layer '{name}' stays in training mode, where it normalises with each batch's own statistics")
        if layer.running_mean is None or layer.running_var is None:
            raise _refused(f"layer '{name}' keeps no running statistics, so it normalises with each batch's own")


def _traced(module: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(module)
    except Exception as error:  # whatever the module's code makes of the values that it is shown
        reason = (text_of(error) or type(error).__name__).splitlines()[0]
        raise _refused(
            f"{type(module).__name__} cannot be traced by torch.fx, which runs forward() once without values, so forward() must "
            f"not decide by them ({reason})"
        ) from error


def _fold(graph: fx.GraphModule) -> int:
    """Folds what can be, in place; how many."""
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    layers = dict(graph.named_modules())
    folded = 0
    for node in list(graph.graph.nodes):
        before = _predecessor(node, calls, layers)
        if before is None:
            continue
        _replace(graph, str(before.target), _arithmetic(layers[str(before.target)], layers[str(node.target)]))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
        graph.delete_submodule(str(node.target))
        folded += 1
    graph.recompile()
    return folded


def _predecessor(node: fx.Node, calls: Mapping[Any, int], layers: Mapping[str, nn.Module]) -> fx.Node | None:
    """What this node, a BatchNorm, can be folded into. Both layers have to be called once, and nothing else may see what lies
    between them."""
    if node.op != "call_module" or not _is_plain(layers[str(node.target)], _NORMS) or calls[node.target] != 1:
        return None
    before = node.args[0] if node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or calls[before.target] != 1 or len(before.users) != 1:
        return None
    layer, norm = layers[str(before.target)], layers[str(node.target)]
    if not _is_plain(layer, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)):
        return None
    if isinstance(layer, _TRANSPOSED) and layer.groups != 1:
        return None  # the library's arithmetic takes channels out to be one axis of the weights
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return before if channels == norm.num_features else None


def _is_plain(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """One of exactly these classes, without hooks and parametrizations, which would see other weights."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    return type(layer) in kinds and not hooks and not parametrize.is_parametrized(layer)


def _arithmetic(layer: Any, norm: Any) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fusion.fuse_linear_bn_eval(layer, norm)
    folded: nn.Module = fusion.fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))
    return folded


def _replace(graph: fx.GraphModule, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(graph.get_submodule(parent), own, layer.requires_grad_(False))


# -- the check -----------------------------------------------------------------------------------------------------------


def check(run_plain: Callable[[], Outputs], run_fused: Callable[[], Outputs], model: ModelConfig) -> None:
    """Compares the answers of both to the same batch; CannotLoad with the difference where it is too large."""
    exact = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # its rounding of other weights would be larger than the tolerance
    try:
        expected = run_plain()
        try:
            got = run_fused()
        except Exception as error:
            raise _refused(f"the model fails once it is fused: {text_of(error) or type(error).__name__}") from error
    finally:
        torch.backends.cudnn.allow_tf32 = exact
    worst = 0.0
    for name, value in expected.items():
        if not isinstance(value, torch.Tensor):
            continue
        found, allowed = difference(value, got[name]), tolerance(value.dtype)
        if found > allowed:
            raise _refused(
                f"output '{name}' of the fused model differs by {found:.1e} of its largest number on the warm-up batch, "
                f"more than {allowed:.1e}"
            )
        worst = max(worst, found)
    _log.info("model '%s': fused, outputs differ by %.1e of the largest number", model.name, worst)


def difference(expected: torch.Tensor, got: torch.Tensor) -> float:
    """The largest difference of any number, in parts of the largest; inf where shapes, types or what is finite differ, and for
    whole numbers that are not equal."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got) else float("inf")
    wanted, found = expected.double(), got.double()
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(wanted[finite].abs().max()) or 1.0
    return float((wanted[finite] - found[finite]).abs().max()) / scale


def tolerance(dtype: torch.dtype) -> float:
    """The largest accepted difference of an output of this type."""
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps) if dtype.is_floating_point else 0.0
