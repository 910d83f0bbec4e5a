"""A network without training: how red, green and blue a picture is."""

import torch


class Colours(torch.nn.Module):
    """[batch, 3, height, width] normalised pixels -> [batch, 3] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.sharpness * pixels.mean((2, 3))
