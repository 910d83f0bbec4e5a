"""The residual networks: torchvision's names, sizes and numbers of parameters; sane seeded weights."""

from __future__ import annotations

import pytest
import torch

from jitney.tools.dev.resnet import STAGES, ResNet, seeded

#: Published numbers of parameters with 1000 classes.
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


@pytest.mark.parametrize("depth", sorted(STAGES))
def test_the_number_of_parameters_is_the_published_one(depth: int) -> None:
    with torch.device("meta"):
        model = ResNet(depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[depth]


def test_resnet152s_state_dict_has_torchvisions_keys_and_shapes() -> None:
    with torch.device("meta"):
        state = ResNet(152).state_dict()
    expected = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 2048), "fc.bias": (1000,), **_norm("bn1", 64)}
    channels = 64
    for stage, (blocks, width) in enumerate(zip((3, 8, 36, 3), (64, 128, 256, 512), strict=True), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            expected |= {f"{name}.conv1.weight": (width, channels, 1, 1), f"{name}.conv2.weight": (width, width, 3, 3)}
            expected |= {f"{name}.conv3.weight": (width * 4, width, 1, 1)}
            for index, size in ((1, width), (2, width), (3, width * 4)):
                expected |= _norm(f"{name}.bn{index}", size)
            if block == 0:
                expected |= {f"{name}.downsample.0.weight": (width * 4, channels, 1, 1)}
                expected |= _norm(f"{name}.downsample.1", width * 4)
            channels = width * 4
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    fields = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (size,))
    return {f"{name}.{field}": shape for field, shape in fields.items()} | {f"{name}.num_batches_tracked": ()}


@pytest.mark.parametrize("depth", [18, 50])
def test_seeded_weights_are_reproducible_and_sane(depth: int) -> None:
    before = torch.random.get_rng_state()
    one, two = seeded(depth, classes=20), seeded(depth, classes=20)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not one.training
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = one(images)
    assert logits.shape == (2, 20)
    assert logits.abs().max() < 100
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="no ResNet of depth 20; expected one of 18, 34, 50, 101, 152"):
        ResNet(20)
