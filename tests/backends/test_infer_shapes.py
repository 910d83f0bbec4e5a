"""What can be found out about a TorchScript model that declares nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jitney.backends.infer_shapes import infer
from jitney.backends.torchscript import quiet_jit


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.embedding(tokens))
        return scores


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 2), nn.Linear(7, 2, dtype=torch.float64)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.left(a), self.right(b)


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    with quiet_jit():
        return torch.jit.script(module.eval())


LENET = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))
CONVOLUTIONS = nn.Sequential(
    nn.Conv2d(6, 8, 3, groups=2, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
)


@pytest.mark.parametrize(
    ("module", "inputs", "outputs"),
    [
        (nn.Sequential(nn.Linear(12, 3), nn.ReLU()), {"input": ("FP32", [-1, 12])}, [("FP32", [-1, 3])]),
        (LENET, {"input": ("FP32", [-1, 1, 28, 28])}, [("FP32", [-1, 10])]),
        (CONVOLUTIONS, {"input": ("FP32", [-1, 6, -1, -1])}, [("FP32", [-1, 8])]),
        (Tagger(), {"tokens": ("INT64", [-1, -1])}, [("FP32", [-1, -1, 3])]),
        (TwoInputs(), {"a": ("FP32", [-1, 5]), "b": ("FP64", [-1, 7])}, [("FP32", [-1, 2]), ("FP64", [-1, 2])]),
    ],
    ids=["linear", "one image size", "any image size", "embedding", "two inputs"],
)
def test_weights_and_trial_runs_tell(
    module: nn.Module, inputs: dict[str, tuple[str, list[int]]], outputs: list[tuple[str, list[int]]]
) -> None:
    with quiet_jit():
        assert infer(scripted(module)) == (inputs, outputs)


def test_nothing_is_guessed_where_no_layer_tells() -> None:
    with quiet_jit():
        assert infer(scripted(Doubles())) is None


def test_a_traced_model_tells_the_same() -> None:
    with quiet_jit():
        traced = torch.jit.trace(LENET.eval(), torch.zeros(1, 1, 28, 28))  # type: ignore[no-untyped-call]
        found = infer(traced)
    assert found is not None
    assert list(found[0].values()) == [("FP32", [-1, 1, 28, 28])]
