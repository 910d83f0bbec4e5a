"""Integrated gradients (Sundararajan, Taly and Yan 2017) for explanations, where captum is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

STEPS = 50  # captum's default


def _nodes(steps: int) -> Iterator[tuple[float, float]]:
    """Positions on the way from 0 to 1 and their weights: Gauss-Legendre quadrature, captum's default method."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)


class IntegratedGradients:
    """Attributions of a model's inputs against a baseline of zeros; captum's class of this name, in its default method."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def attribute(self, inputs: torch.Tensor, target: int = 0, n_steps: int = STEPS) -> torch.Tensor:
        """The integral of the gradient of output `target` along the line from zero to `inputs`, times `inputs`.

        `inputs` has a leading batch axis. One pass for each node, so that memory does not grow with the steps.
        """
        total = torch.zeros_like(inputs)
        with torch.enable_grad():
            for node, weight in _nodes(n_steps):
                point = (inputs.detach() * node).requires_grad_()
                score = self._forward(point)[:, target].sum()
                (gradient,) = torch.autograd.grad(score, point)
                total += gradient * weight
        return total * inputs.detach()


class LayerIntegratedGradients:
    """Attributions of what a layer puts out, for inputs that have no gradient, such as indices of words."""

    def __init__(self, forward: Callable[..., Any], layer: torch.nn.Module) -> None:
        self._forward, self._layer = forward, layer

    def attribute(
        self,
        inputs: torch.Tensor,
        baselines: torch.Tensor | None = None,
        target: int = 0,
        additional_forward_args: Any = None,
        n_steps: int = STEPS,
        return_convergence_delta: bool = False,
    ) -> torch.Tensor:
        """Of the shape of the layer's output: the integral of the gradient of output `target` along the line from the layer's
        output for `baselines` (zeros where left out) to that for `inputs`, times their difference.

        `additional_forward_args` follow the inputs in the model's call.
        """
        if return_convergence_delta:
            raise ValueError("return_convergence_delta needs captum (pip install captum)")
        more = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
        more = () if additional_forward_args is None else more
        start = self._output(torch.zeros_like(inputs) if baselines is None else baselines, more)
        way = self._output(inputs, more) - start
        total = torch.zeros_like(way)
        with torch.enable_grad():
            for node, weight in _nodes(n_steps):
                point = (start + way * node).requires_grad_()
                score = self._run(inputs, more, lambda module, arguments, output, point=point: point)[:, target].sum()
                (gradient,) = torch.autograd.grad(score, point)
                total += gradient * weight
        return total * way

    def _output(self, inputs: torch.Tensor, more: tuple[Any, ...]) -> torch.Tensor:
        """What the layer puts out."""
        seen: list[torch.Tensor] = []
        with torch.no_grad():
            self._run(inputs, more, lambda module, arguments, output: seen.append(output.detach().clone()))
        if not seen:
            raise RuntimeError(
                f"{type(self._layer).__name__} was not called by the model, so nothing can be attributed to it"
            )
        return seen[0]

    def _run(self, inputs: torch.Tensor, more: tuple[Any, ...], hook: Callable[..., Any]) -> Any:
        handle = self._layer.register_forward_hook(hook)
        try:
            return self._forward(inputs, *more)
        finally:
            handle.remove()


def integrated_gradients(model: Any) -> Any:
    """captum's IntegratedGradients where it is installed, else ours."""
    try:
        from captum.attr import IntegratedGradients as Captum
    except ImportError:
        return IntegratedGradients(model)
    return Captum(model)


def layer_integrated_gradients(model: Any, layer: Any) -> Any:
    """captum's LayerIntegratedGradients where it is installed, else ours."""
    try:
        from captum.attr import LayerIntegratedGradients as Captum
    except ImportError:
        return LayerIntegratedGradients(model, layer)
    return Captum(model, layer)
