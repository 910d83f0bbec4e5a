"""Residual networks after He et al., "Deep Residual Learning for Image Recognition" (2015), table 1.

Names and shapes in the state dict are torchvision's, so that its weight files fit. As there, a bottleneck strides in its
3 x 3 convolution (the paper: in its first 1 x 1), which is what these weight files were trained with.
"""

from __future__ import annotations

import torch
from torch import nn

#: depth -> blocks in each of the four stages
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
#: Scale of each residual branch in seeded weights: with 1.0, the signal would double in each of up to 50 blocks.
_BRANCH_SCALE = 0.2


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; for 18 and 34 layers."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(branch + shortcut)  # type: ignore[no-any-return]

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; for 50 layers and more."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = _conv(channels_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, channels_out, 1)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(branch + shortcut)  # type: ignore[no-any-return]

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class ResNet(nn.Module):
    """[batch, 3, height, width] normalised pixels (224 x 224 in training) -> [batch, classes] logits.

    `depth` is one of 18, 34, 50, 101, 152. ResNet-152 with 1000 classes has 60,192,808 parameters.
    """

    def __init__(self, depth: int, classes: int = 1000) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"no ResNet of depth {depth}; expected one of {', '.join(map(str, STAGES))}")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        counts = STAGES[depth]
        self.layer1 = _stage(block, counts[0], 64, 64, 1)
        self.layer2 = _stage(block, counts[1], 64 * block.expansion, 128, 2)
        self.layer3 = _stage(block, counts[2], 128 * block.expansion, 256, 2)
        self.layer4 = _stage(block, counts[3], 256 * block.expansion, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


def seeded(depth: int, classes: int = 1000, seed: int = 0) -> ResNet:
    """A ResNet in eval mode with reproducible weights whose outputs are finite and differ between images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(depth, classes)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock | Bottleneck):
                nn.init.constant_(module.last_norm.weight, _BRANCH_SCALE)
    return model.eval()


def _stage(block: type[BasicBlock | Bottleneck], count: int, channels_in: int, width: int, stride: int) -> nn.Sequential:
    """`count` blocks, of which the first strides and widens."""
    rest = [block(width * block.expansion, width, 1) for _ in range(count - 1)]
    return nn.Sequential(block(channels_in, width, stride), *rest)


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """A projection where the block changes the shape, else nothing."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(_conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))
