"""Which pictures a device's decoder is given, from the first bytes of real files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jitney.codecs.jpeg import Plain, Unfit, head

INPUTS = Path(__file__).parents[1] / "conformance/recordings/torchserve/inputs"


def saved(format_: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (37, 21), **options: Any) -> bytes:
    out = io.BytesIO()
    with Image.open(INPUTS / "kitten.jpg") as photo:
        photo.convert(mode).resize(size).save(out, format_, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", ["croco.jpg", "dog.jpg", "kitten.jpg"])
def test_photographs_are_plain_and_their_size_is_pillows(name: str) -> None:
    with Image.open(INPUTS / name) as image:
        assert head((INPUTS / name).read_bytes()) == Plain(*image.size)


@pytest.mark.parametrize("sampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
def test_samplings_and_restart_markers(sampling: int) -> None:
    assert head(saved(subsampling=sampling)) == Plain(37, 21)
    assert head(saved(subsampling=sampling, restart_marker_blocks=2)) == Plain(37, 21)


def test_metadata_before_the_frame_and_bytes_behind_the_end_do_not_matter() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = saved(exif=exif, comment=b"\xff\xd9\xff\xc2", icc_profile=bytes(70_000))
    assert head(data) == Plain(37, 21)
    assert head(data + b"what a phone puts there") == Plain(37, 21)
    assert head(memoryview(data)) == Plain(37, 21)


#: Another frame, of 60,000 x 60,000 pixels.
FRAME = bytes.fromhex("ffc0001108ea60ea6003012200021101031101")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved("PNG"), "a picture other than a JPEG"),
        (b"", "a picture other than a JPEG"),
        (b"\xff\xd8", "a damaged JPEG"),
        (saved(progressive=True), "a progressive JPEG"),
        (saved()[:2] + FRAME + saved()[2:], "a damaged JPEG"),
        (saved(mode="CMYK"), "a JPEG of 4 channels"),
        (saved(mode="L"), "a JPEG of 1 channels"),
        (saved(keep_rgb=True), "a JPEG stored as RGB"),
        (saved()[:-2], "a truncated JPEG"),
        (saved()[:-200], "a truncated JPEG"),
        (saved().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"), "a JPEG that is not baseline"),
        (saved().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), "a JPEG of 12 bits"),
        (saved().replace(b"\x03\x01\x22\x00\x02\x11", b"\x03\x01\x22\x00\x02\x21"), "a JPEG with unusual sampling"),
        (
            saved().replace(b"\xff\xc0\x00\x11\x08\x00\x15", b"\xff\xc0\x00\x11\x08\x00\x00"),
            "a JPEG that does not tell its size",
        ),
    ],
)
def test_the_rest_is_not(data: bytes, reason: str) -> None:
    assert head(data) == Unfit(reason)


def test_a_photograph_that_ends_anywhere_is_never_plain() -> None:
    """Nor does it raise: the thumbnail inside of it has an end of its own."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = saved(size=(8, 8))
    data = saved(exif=exif)
    assert data.count(b"\xff\xd9") == 2
    assert [length for length in range(len(data) - 1) if not isinstance(head(data[:length]), Unfit)] == []


def test_bytes_at_random_never_raise() -> None:
    import numpy as np

    data = saved()
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        spoiled = bytearray(data)
        for place in rng.integers(0, 200, 3):
            spoiled[place] = rng.integers(0, 256)
        assert isinstance(head(bytes(spoiled)), Plain | Unfit)
