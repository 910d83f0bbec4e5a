"""Integrated gradients (Sundararajan, Taly and Yan 2017) for explanations, where captum is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class IntegratedGradients:
    """Attributions of a model's inputs against a baseline of zeros; captum's class of this name, in its default method."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def attribute(self, inputs: torch.Tensor, target: int = 0, n_steps: int = 50) -> torch.Tensor:
        """The integral of the gradient of output `target` along the line from zero to `inputs`, times `inputs`.

        `inputs` has a leading batch axis. Gauss-Legendre quadrature with `n_steps` nodes; one pass for each node, so that
        memory does not grow with the steps.
        """
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        total = torch.zeros_like(inputs)
        with torch.enable_grad():
            for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                point = (inputs.detach() * float(node)).requires_grad_()
                score = self._forward(point)[:, target].sum()
                (gradient,) = torch.autograd.grad(score, point)
                total += gradient * float(weight)
        return total * inputs.detach()


def integrated_gradients(model: Any) -> Any:
    """captum's IntegratedGradients where it is installed, else ours."""
    try:
        from captum.attr import IntegratedGradients as Captum
    except ImportError:
        return IntegratedGradients(model)
    return Captum(model)
