"""The geometry against hand-computed numbers, the arithmetic against torch-free references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from jitney.codecs.transforms import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalize, Resize, ToTensor


@pytest.mark.parametrize(
    ("size", "width", "height", "expected"),
    [
        (256, 720, 720, (256, 256)),
        (256, 500, 333, (384, 256)),  # 256 * 500 / 333 = 384.38
        (256, 333, 500, (256, 384)),
        (256, 1000, 601, (425, 256)),  # 425.96 is cut, not rounded
        (8, 3, 5, (8, 13)),
        (1, 1000, 3, (333, 1)),
        ((20, 30), 500, 333, (30, 20)),  # height, width
    ],
)
def test_resize_takes_the_size_of_torchvision(size: Any, width: int, height: int, expected: tuple[int, int]) -> None:
    assert Resize(size)(Image.new("RGB", (width, height))).size == expected


def test_resize_is_pillows_antialiased_bilinear() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert Resize(10)(image).tobytes() == image.resize((15, 10), Image.Resampling.BILINEAR).tobytes()


def test_resize_leaves_an_image_of_the_right_size_alone() -> None:
    image = Image.new("L", (256, 300))
    assert Resize(256)(image) is image


@pytest.mark.parametrize(
    ("width", "height", "crop", "left", "top"),
    [
        (256, 256, 224, 16, 16),
        (257, 259, 224, 16, 18),  # 16.5 rounds to 16 and 17.5 to 18: halves to even
        (10, 20, (4, 6), 2, 8),
    ],
)
def test_center_crop_offsets(width: int, height: int, crop: Any, left: int, top: int) -> None:
    pixels = np.arange(width * height, dtype=np.int64).reshape(height, width).astype(np.uint8)
    rows, columns = (crop, crop) if isinstance(crop, int) else crop
    cropped = np.asarray(CenterCrop(crop)(Image.fromarray(pixels)))
    assert np.array_equal(cropped, pixels[top : top + rows, left : left + columns])


def test_center_crop_pads_small_images_with_black() -> None:
    cropped = np.asarray(CenterCrop(5)(Image.fromarray(np.full((2, 8), 9, np.uint8))))
    expected = np.zeros((5, 5), np.uint8)
    expected[1:3] = 9  # three rows missing: one above, two below
    assert np.array_equal(cropped, expected)


def test_normalize_is_the_float32_arithmetic_of_totensor_and_normalize() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    expected = np.empty((3, 7, 5), np.float32)
    for channel in range(3):
        scaled = pixels[:, :, channel].astype(np.float32) / np.float32(255)
        expected[channel] = (scaled - np.float32(IMAGENET_MEAN[channel])) / np.float32(IMAGENET_STD[channel])
    assert np.array_equal(Normalize(IMAGENET_MEAN, IMAGENET_STD)(Image.fromarray(pixels)), expected)


def test_normalize_takes_one_number_for_all_channels_and_grey_images() -> None:
    grey = Image.fromarray(np.array([[0, 255], [51, 102]], np.uint8))
    assert np.allclose(Normalize((0.5,), (0.5,))(grey), [[[-1.0, 1.0], [-0.6, -0.2]]])
    assert np.allclose(Normalize((0.5,), (0.5,))(grey.convert("RGB"))[2], [[-1.0, 1.0], [-0.6, -0.2]])


def test_totensor_divides_by_255() -> None:
    assert np.array_equal(ToTensor()(Image.new("L", (1, 1), 51)), np.full((1, 1, 1), np.float32(51) / np.float32(255)))
