"""The image transforms of the default handlers, made of the server's own, so that torchvision is not needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from jitney.codecs import transforms


class Compose:
    """One transform after the other."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(steps)

    def __call__(self, image: Any) -> Any:
        for step in self.transforms:
            image = step(image)
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """TorchServe's handlers fail for images that are not RGB; these convert them."""
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(transforms.ToTensor()(image))


def normalized(image: Image.Image) -> torch.Tensor:
    """ToTensor and Normalize with ImageNet's mean and standard deviation."""
    return torch.from_numpy(transforms.Normalize(transforms.IMAGENET_MEAN, transforms.IMAGENET_STD)(image))


def imagenet() -> Compose:
    """Resize(256), CenterCrop(224), ToTensor, Normalize: the transform of classifiers and segmenters."""
    return Compose([to_rgb, transforms.Resize(256), transforms.CenterCrop(224), normalized])
