"""Pictures that the worker decodes: everything but nvJPEG itself, whose place Pillow takes here."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from jitney.backends import device_decode
from jitney.backends.base import DeviceLost
from jitney.backends.batch import pixels_of
from jitney.backends.device_decode import DeviceDecoder, grey
from jitney.backends.options import CannotLoad
from jitney.codecs import create
from jitney.codecs.geometry import Geometry, sample
from jitney.core.errors import InvalidConfig, InvalidRequest
from jitney.core.model_config import InstanceGroup, ModelConfig
from jitney.core.request import Failure, Part, Request
from jitney.core.tensor import Tensor, unpack_bytes
from jitney.server.serving.validation import validate
from jitney.tests.codecs.test_jpeg import INPUTS, saved
from jitney.tests.fakes.tensors import config, loaded, spec

PHOTOS = [(INPUTS / name).read_bytes() for name in ("kitten.jpg", "dog.jpg", "croco.jpg")]
CPU = torch.device("cpu")


def model(
    folder: Path, rows: int = 8, dims: tuple[int, ...] = (3, 224, 224), parameters: Mapping[str, str] | None = None
) -> ModelConfig:
    given = {"decode": "device", **(parameters or {})}
    return config(folder, "eager", [spec("x", *dims)], [spec("y", *dims)], rows, codec="image_classifier", parameters=given)


def by_pillow(pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    images = (Image.open(io.BytesIO(picture.numpy().tobytes())).convert("RGB") for picture in pictures)
    return [torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()) for image in images]


class Calls:
    """A decoder that refuses what holds `bad`, all of a call's pictures together, and remembers how many there were."""

    def __init__(self, bad: bytes = b"never") -> None:
        self.counts: list[int] = []
        self._bad = bad

    def __call__(self, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
        self.counts.append(len(pictures))
        if any(self._bad in picture.numpy().tobytes() for picture in pictures):
            raise RuntimeError("Error while decoding JPEG images: nvjpegDecodeBatched failed: 5")
        return by_pillow(pictures)


def decoder(target: ModelConfig, decode: device_decode.Decode = by_pillow) -> DeviceDecoder:
    pixels = pixels_of(target)
    assert pixels is not None
    assert pixels.geometry is not None
    return DeviceDecoder(target, pixels, pixels.geometry, CPU, decode, lost=lambda: "")


def on_host(target: ModelConfig, data: bytes) -> npt.NDArray[np.uint8]:
    """What the codec makes of it where the worker only normalises."""
    parameters = {key: value for key, value in target.parameters.items() if key != "decode"}
    (tensor,) = create(replace(target, parameters=parameters)).decode([Part("body", data)], {})
    return tensor.numpy()[0]  # type: ignore[no-any-return]


def turned(data: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "JPEG", exif=exif, quality=95)
    return out.getvalue()


def sized(data: bytes, width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((width, height)).save(out, "JPEG", quality=92)
    return out.getvalue()


SIZES = [(640, 427), (427, 640), (100, 80), (256, 256), (224, 300), (1200, 300), (31, 47), (3000, 2000), (1, 9), (257, 255)]


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"resize": "0"},
        {"resize": "232"},
        {"resize": "300,200"},
        {"image_mode": "L"},
        {"crop": "300,100"},
        {"crop": "225"},
        {"resize": "64", "crop": "301"},
    ],
    ids=str,
)
def test_pixels_are_the_hosts_to_one_step(tmp_path: Path, steps: dict[str, str]) -> None:
    """Sizes and crop are the same, and no pixel of any differs by more than 1 of 255: the kernel does not round between its two
    directions."""
    crop = tuple(int(size) for size in steps.get("crop", "224").split(","))
    dims = (1 if "image_mode" in steps else 3, *(crop * 2)[:2])
    target = model(tmp_path, dims=dims, parameters=steps)
    pictures = [*PHOTOS, *(sized(photo, *size) for photo in PHOTOS for size in SIZES)]
    differing = total = 0
    for data, row in zip(pictures, decoder(target).pictures(pictures), strict=True):
        assert isinstance(row, torch.Tensor), row
        expected = on_host(target, data).astype(int)
        got = row.numpy().astype(int)
        assert got.shape == expected.shape == dims
        assert np.abs(got - expected).max() <= 1, Image.open(io.BytesIO(data)).size
        differing += int((got != expected).sum())
        total += got.size
    assert differing < 0.25 * total
    if steps.get("resize") == "0":
        assert differing == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_how_a_camera_was_held_changes_nothing_as_on_the_host(tmp_path: Path, orientation: int) -> None:
    target = model(tmp_path)
    data = turned(PHOTOS[1], orientation)
    (row,) = decoder(target).pictures([data])
    assert isinstance(row, torch.Tensor)
    assert np.abs(row.numpy().astype(int) - on_host(target, data).astype(int)).max() <= 1


def test_without_resize_and_crop_pictures_keep_their_sizes(tmp_path: Path) -> None:
    target = model(tmp_path, dims=(3, -1, -1), parameters={"resize": "0", "crop": "0"})
    rows = decoder(target).pictures(PHOTOS)
    for data, row in zip(PHOTOS, rows, strict=True):
        assert isinstance(row, torch.Tensor)
        np.testing.assert_array_equal(row.numpy(), on_host(target, data))


def test_grey_is_pillows_for_every_colour_of_a_raster() -> None:
    steps = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    got = grey(torch.from_numpy(colours.transpose(2, 0, 1)[None].copy()))
    np.testing.assert_array_equal(got.numpy()[0, 0], expected)


# -- what the device does not read -----------------------------------------------------------------------------------------

HOST_ONLY = [
    saved("PNG"),
    saved("WEBP"),
    saved(progressive=True),
    saved(mode="CMYK"),
    saved(mode="L"),
    saved(keep_rgb=True),
]


def test_what_the_device_does_not_read_pillow_does_in_the_same_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, calls = model(tmp_path), Calls()
    batch = [PHOTOS[0], *HOST_ONLY, PHOTOS[1], *HOST_ONLY]
    with caplog.at_level("INFO"):
        rows = decoder(target, calls).pictures(batch)
    assert calls.counts == [2]
    for data, row in zip(batch, rows, strict=True):
        assert isinstance(row, torch.Tensor)
        expected, exact = on_host(target, data).astype(int), data not in PHOTOS
        assert np.abs(row.numpy().astype(int) - expected).max() <= (0 if exact else 1)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 5, "each kind once: no JPEG, progressive, 4 channels, 1 channel, RGB"
    assert told[1].startswith("model 'm': a progressive JPEG is decoded by Pillow in the worker")


def failure_of(target: ModelConfig, data: bytes) -> str:
    with pytest.raises(InvalidRequest) as raised:
        on_host(target, data)
    return str(raised.value)


BROKEN = [
    (b"no picture", {}),
    (PHOTOS[0][:5000], {}),
    (PHOTOS[0][:200], {}),
    (saved("PNG")[:300], {}),
    (PHOTOS[0], {"max_image_pixels": "70000"}),
    (sized(PHOTOS[0], 3000, 1), {"max_image_pixels": "100000"}),
]


@pytest.mark.parametrize(("data", "more"), BROKEN)
def test_what_nothing_reads_fails_alone_with_the_codecs_words(tmp_path: Path, data: bytes, more: dict[str, str]) -> None:
    target = model(tmp_path, parameters=more)
    fine = saved(size=(20, 20))
    before, broken, after = decoder(target).pictures([fine, data, fine])
    assert broken == Failure(failure_of(target, data), code="INVALID_ARG")
    assert isinstance(before, torch.Tensor)
    assert isinstance(after, torch.Tensor)


def test_a_picture_that_fails_the_whole_call_is_found_and_decoded_by_pillow(tmp_path: Path) -> None:
    """Damaged behind its head, it fails all pictures of nvJPEG's call."""
    bad = saved(comment=b"nvJPEG does not like it", size=(300, 300))
    target, calls = model(tmp_path), Calls(bad=b"does not like")
    batch = [*PHOTOS, bad, *PHOTOS, PHOTOS[0]]
    rows = decoder(target, calls).pictures(batch)
    assert calls.counts == [8, 4, 2, 2, 1, 1, 4]
    for data, row in zip(batch, rows, strict=True):
        assert isinstance(row, torch.Tensor)
        assert np.abs(row.numpy().astype(int) - on_host(target, data).astype(int)).max() <= 1


def test_a_lost_device_is_not_taken_for_a_bad_picture(tmp_path: Path) -> None:
    target = model(tmp_path)
    pixels = pixels_of(target)
    assert pixels is not None
    assert pixels.geometry is not None
    made = DeviceDecoder(target, pixels, pixels.geometry, CPU, Calls(bad=b""), lost=lambda: "an illegal access")
    with pytest.raises(DeviceLost, match="model 'm' lost its device: an illegal access"):
        made.pictures(PHOTOS)


def test_large_pictures_are_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_decode, "AT_ONCE", 100_000)
    calls = Calls()
    batch = [sized(PHOTOS[0], 200, side) for side in (200, 200, 200, 900, 200, 300)]
    target = model(tmp_path, parameters={"resize": "0"})
    assert all(isinstance(row, torch.Tensor) for row in decoder(target, calls).pictures(batch))
    assert calls.counts == [2, 1, 1, 2]


def test_pictures_that_grow_count_as_what_they_become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG of a few hundred bytes may be asked to become millions of pixels."""
    monkeypatch.setattr(device_decode, "AT_ONCE", 2 * 256 * 256 * 100)
    calls = Calls()
    batch = [sized(PHOTOS[0], 100, 1)] * 5
    assert all(isinstance(row, torch.Tensor) for row in decoder(model(tmp_path), calls).pictures(batch))
    assert calls.counts == [2, 2, 1]


# -- requests --------------------------------------------------------------------------------------------------------------


def picture_requests(target: ModelConfig, pictures: Sequence[bytes]) -> list[Request]:
    codec = create(target)
    return [Request(tensors=codec.decode([Part("body", data)], {})) for data in pictures]


@pytest.mark.parametrize("rows", [8, 0])
def test_the_codec_hands_pictures_on_whatever_they_are_written_as(tmp_path: Path, rows: int) -> None:
    target = model(tmp_path, rows)
    text = base64.encodebytes(PHOTOS[0])
    codec = create(target)
    for part in (
        Part("body", memoryview(PHOTOS[0])),
        Part("data", PHOTOS[0], "image/jpeg"),
        Part("body", text, "text/plain"),
        Part("body", b'"' + text.replace(b"\n", b"") + b'"', "application/json"),
    ):
        tensors, _ = codec.read([part], {})
        assert (tensors[0].name, tensors[0].datatype, tensors[0].shape) == ("x", "BYTES", (1, 1) if rows else (1,))
        assert unpack_bytes(tensors[0].data) == [PHOTOS[0]]
        assert validate(codec.expects(tensors), Request(tensors=tensors)) == 1
    with pytest.raises(InvalidRequest, match="not base64"):
        codec.decode([Part("body", b"!", "text/plain")], {})


def test_only_the_codec_may_send_pictures(tmp_path: Path) -> None:
    target = model(tmp_path)
    (asked,) = picture_requests(target, [PHOTOS[0]])
    with pytest.raises(InvalidRequest, match="data-type is 'BYTES', but model 'm' expects 'FP32'"):
        validate(target, asked)


def test_requests_get_their_pixels_and_others_stay(tmp_path: Path) -> None:
    target = model(tmp_path)
    pictures = picture_requests(target, [PHOTOS[0], b"none", saved("PNG")])
    floats = Request(tensors=[Tensor.from_numpy("x", np.zeros((1, 3, 224, 224), np.float32))])
    odd = Request(tensors=[Tensor("x", "BYTES", (2, 1), b"")])
    made = decoder(target)
    first, broken, second, *rest = made.prepared([*pictures, floats, odd])
    assert rest == [floats, odd]
    assert isinstance(broken, Failure)
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert (first.tensors[0].datatype, first.tensors[0].shape) == ("UINT8", (1, 3, 224, 224))
    tensors: Any = [first.tensors[0], second.tensors[0]]
    stacked = made.stacked(tensors, padded=4)
    assert stacked.shape == (4, 3, 224, 224)
    assert not stacked[2:].any()
    np.testing.assert_array_equal(stacked[1].numpy(), on_host(target, saved("PNG")))


# -- refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "parameters", "words"),
    [
        (
            {"backend": "onnxruntime"},
            {},
            "backend 'onnxruntime' has no decoder on a device; expected one of eager, torchscript",
        ),
        ({"backend": "python"}, {}, "backend 'python' has no decoder"),
        ({"sequence": {"direct": {}}}, {}, "stateful"),
        ({}, {"normalize_on_device": "false"}, "normalize_on_device is false"),
        ({"instance_groups": (InstanceGroup(kind="KIND_CPU"),)}, {}, "an instance runs on the CPU"),
        ({}, {"decode": "gpu"}, "'decode' is 'gpu'; expected host or device"),
    ],
)
def test_where_it_cannot_be_had_it_is_refused(
    tmp_path: Path, change: dict[str, Any], parameters: dict[str, str], words: str
) -> None:
    target = replace(model(tmp_path, parameters=parameters), **change)
    with pytest.raises(InvalidConfig, match=words):
        pixels_of(target)
    with pytest.raises(InvalidConfig, match=words):
        create(target)


def test_host_is_the_default_and_can_be_said(tmp_path: Path) -> None:
    pixels = pixels_of(model(tmp_path, parameters={"decode": "host"}))
    assert pixels is not None
    assert pixels.geometry is None


def test_an_instance_on_the_cpu_refuses_it_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import torch\nclass Net(torch.nn.Identity):\n    pass\n")
    with pytest.raises(CannotLoad, match="needs a GPU, this instance of model 'm' runs on the CPU: set KIND_GPU"):
        loaded(model(tmp_path))


def test_without_torchvision_it_says_so() -> None:
    """Really: it is no requirement of the project, and not installed with it."""
    try:
        import torchvision  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("torchvision is installed here")
    with pytest.raises(
        CannotLoad, match=rf"needs torchvision.* belongs to torch {torch.__version__.split('+')[0]}.*ModuleNotFoundError"
    ):
        device_decode.nvjpeg(torch.device("cuda:0"))


def test_a_torchvision_for_another_torch_says_so(tmp_path: Path) -> None:
    """What such a one does when it is imported: its operators are not there."""
    (tmp_path / "torchvision").mkdir()
    source = "from torch import library\n@library.register_fake('torchvision::nms')\ndef nms(boxes, scores, most): ...\n"
    (tmp_path / "torchvision/__init__.py").write_text(source)
    code = (
        "import torch\nfrom jitney.backends.device_decode import nvjpeg\n"
        "try:\n    nvjpeg(torch.device('cuda:0'))\nexcept ValueError as error:\n    print(error)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, env=environment
    )
    assert "needs torchvision" in done.stdout
    assert "(RuntimeError: operator torchvision::nms does not exist)" in done.stdout


# -- the whole road, on a card that is made of the CPU's memory --------------------------------------------------------------

ROAD = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from jitney.tests.fakes import late_device
late_device.install()
from jitney.backends import device_decode
from jitney.backends.base import DeviceLost
from jitney.core.model_config import ModelConfig
from jitney.tests.backends.test_device_decode import BROKEN, HOST_ONLY, PHOTOS, by_pillow, model, picture_requests
from jitney.tests.fakes.tensors import answers, arrays, loaded, request
from jitney.codecs import create
from jitney.core.request import Part

calls = []
def nvjpeg(device):
    def decode(pictures):
        assert not any(picture.is_cuda for picture in pictures)
        calls.append(len(pictures))
        return [picture.to(device) for picture in by_pillow(pictures)]
    return decode
device_decode.nvjpeg = nvjpeg

folder = Path(sys.argv[1])
(folder / "model.py").write_text('''
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x.clone()
''')
target = model(folder, int(sys.argv[2]), parameters=dict(word.split("=") for word in sys.argv[3:]))
host = create(replace(target, parameters={"normalize_on_device": "false"}))
backend = loaded(target, gpu=0)
print("loading:", calls)
calls.clear()
batch = [*PHOTOS, HOST_ONLY[0], BROKEN[0][0], PHOTOS[1][:9000]]
floats = host.decode([Part("body", PHOTOS[0])], {})[0]
sent = [*picture_requests(target, batch), request(x=floats.numpy())]
for turn in range(3):
    got = answers(backend, sent)
    errors = [answer.error and (answer.error.code, answer.error.message[:40]) for answer in got]
    worst = 0.0
    for data, answer in zip([*batch, PHOTOS[0]], got):
        if answer.error is None:
            expected = host.decode([Part("body", data)], {})[0].numpy()
            worst = max(worst, float(np.abs(arrays(answer)["y"] - expected).max()))
print("calls:", calls)
print("errors:", errors)
print("worst:", worst <= 1.001 / 255 / 0.224, worst > 0)
print("graphs:", 0 if backend.graphs is None else len(backend.graphs), late_device.COUNTS["replay"] > 3)
print("one type of input:", {tuple(answer.tensors[0].shape) for answer in got if answer.error is None})
"""


@pytest.mark.parametrize(
    ("rows", "parameters", "loading", "graphs"),
    [
        (8, [], [1, 8], "graphs: 0 False"),
        (8, ["cuda_graphs=true"], [1, 8], "graphs: 4 True"),
        (8, ["batch_sizes=8", "channels_last=true"], [1, 8], "graphs: 0 False"),
        (0, [], [1, 1], "graphs: 0 False"),
    ],
)
def test_the_whole_road_on_a_card(tmp_path: Path, rows: int, parameters: list[str], loading: list[int], graphs: str) -> None:
    """Codec, worker and model: what the model is given is what the host would have given it, to one step of a pixel."""
    done = subprocess.run(
        [sys.executable, "-c", ROAD, str(tmp_path), str(rows), *parameters],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lead = "1, " if rows else ""
    assert done.stdout.splitlines() == [
        f"loading: {loading}",
        "calls: [3, 3, 3]",
        "errors: [None, None, None, None, ('INVALID_ARG', 'cannot decode the image: 10 bytes that a'), "
        "('INVALID_ARG', 'cannot decode the image: image file is t'), None]",
        "worst: True True",
        graphs,
        f"one type of input: {{({lead}3, 224, 224)}}",
    ]


SPOIL = """
from jitney.backends.device_decode import DeviceDecoder
stacked = DeviceDecoder._stacked
def later(self, tensors, padded):
    rows = stacked(self, tensors, padded)
    found = torch.full_like(rows, 77)
    late_device._current[-1].push(lambda: late_device._copy(found, rows))
    return found
DeviceDecoder._stacked = later
"""


@pytest.mark.parametrize(
    ("spoil", "right"), [("", True), ("late_device.Stream.wait_stream = lambda self, other: None", False)]
)
def test_the_stream_that_computes_waits_for_the_pixels(tmp_path: Path, spoil: str, right: bool) -> None:
    script = ROAD.replace("late_device.install()\n", f"late_device.install()\n{SPOIL}\n{spoil}\n", 1)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "8"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("worst: True True" in done.stdout.splitlines()) is right


def test_a_geometry_says_what_a_picture_becomes() -> None:
    plain = Geometry("RGB", None, None)
    assert plain.resized(30, 20) == (30, 20)
    assert plain.placed(30, 20) is None
    assert plain.rows(sample()).shape == (3, 240, 320)


@pytest.mark.gpu
def test_nvjpeg_and_pillow_make_nearly_the_same_of_photographs(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    device = torch.device("cuda:0")
    target = model(tmp_path)
    pixels = pixels_of(target)
    assert pixels is not None
    assert pixels.geometry is not None
    made = device_decode.opened(target, pixels, pixels.geometry, device, lost=lambda: "")
    rows = made.pictures(PHOTOS)
    torch.cuda.synchronize(device)
    for data, row in zip(PHOTOS, rows, strict=True):
        assert isinstance(row, torch.Tensor)
        difference = np.abs(row.cpu().numpy().astype(int) - on_host(target, data).astype(int))
        assert difference.mean() < 2
