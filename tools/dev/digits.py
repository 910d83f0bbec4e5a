"""The digits models: scikit-learn's handwritten digits, the network trained on them, and its three file formats.

1797 grey images of 8 x 8 pixels (Alpaydin and Kaynak's optical recognition data, bundled with scikit-learn). Each is written
as a PNG of 32 x 32 pixels and read back through the `image_classifier` codec with the parameters of the model's own
config.pbtxt: training and serving see the same numbers. A fifth is held out, stratified, always the same.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...backends.eager import build
from ...backends.torchscript import quiet_jit
from ...codecs import create as create_codec
from ...core.model_config import ModelConfig, TensorSpec
from ...core.request import Part

Labelled = tuple[bytes, int]
Progress = Callable[[str], None]

PNG_SIZE = 32
HELD_OUT = 360
SEED = 0
EPOCHS = 20
BATCH = 32
LABEL_SMOOTHING = 0.05


@cache
def _split() -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """All images as (PNG bytes, label): those to train on, those held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    chosen = train_test_split(np.arange(len(data.target)), test_size=HELD_OUT, random_state=SEED, stratify=data.target)
    train, held = ([(to_png(data.images[index]), int(data.target[index])) for index in part] for part in chosen)
    return tuple(train), tuple(held)


def held_out() -> list[Labelled]:
    """The 360 held-out images as (PNG bytes, label), always in the same order."""
    return list(_split()[1])


def training() -> list[Labelled]:
    """The 1437 images to train on as (PNG bytes, label)."""
    return list(_split()[0])


def write_held_out(folder: Path) -> int:
    """Writes the held-out images as `0000_7.png` (number, label) into `folder`; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    images = held_out()
    for number, (png, label) in enumerate(images):
        (folder / f"{number:04}_{label}.png").write_bytes(png)
    return len(images)


def to_png(pixels: npt.NDArray[Any]) -> bytes:
    """An 8 x 8 image with values 0 to 16 as a grey PNG."""
    grey = np.round(pixels * (255 / 16)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).resize((PNG_SIZE, PNG_SIZE), Image.Resampling.NEAREST).save(file, format="PNG")
    return file.getvalue()


def codec_config(document: Mapping[str, Any]) -> ModelConfig:
    """What a codec needs of a model's configuration, from Triton's JSON of it (`GET …/config`, or a parsed config.pbtxt).

    The codec normalises itself here: what it decodes goes to models without a worker in between.
    """
    parameters = {key: value["string_value"] for key, value in document["parameters"].items()}
    return ModelConfig(
        name=document["name"],
        version="1",
        backend="onnxruntime",
        max_batch_size=document["max_batch_size"],
        inputs=_specs(document["input"]),
        outputs=_specs(document["output"]),
        parameters=parameters | {"normalize_on_device": "false"},
        codec=parameters["codec"],
    )


def _specs(entries: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(entry["name"], entry["data_type"].removeprefix("TYPE_"), tuple(int(size) for size in entry["dims"]))
        for entry in entries
    )


def read_config(path: Path) -> ModelConfig:
    """The codec's part of a config.pbtxt."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    return codec_config(json_format.MessageToDict(message, preserving_proto_field_name=True))


def decode(images: Sequence[Labelled], config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as the model's codec decodes them, float32 [count, 1, 8, 8], and their labels, int64 [count]."""
    codec = create_codec(config)
    pixels = [codec.decode([Part("body", png)], {})[0].numpy() for png, _ in images]
    return torch.from_numpy(np.concatenate(pixels)), torch.tensor([label for _, label in images])


def train(folder: Path, progress: Progress = lambda text: None) -> torch.nn.Module:
    """Trains the network of `folder` (the model digits_eager) and returns it in eval mode; the same bits on every run."""
    pixels, labels = decode(training(), read_config(folder / "config.pbtxt"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would give other bits
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network = build(folder / "1" / "model.py", "jitney_digits")
            _fit(network, pixels, labels, progress)
    finally:
        torch.set_num_threads(threads)
    return network.eval()


def _fit(network: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, progress: Progress) -> None:
    """Adam with a one-cycle learning rate, which needs no validation set; every other batch is moved by up to a pixel."""
    optimizer = torch.optim.Adam(network.parameters())
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(labels)), BATCH):
            logits = network(_moved(pixels[chosen]))
            loss = torch.nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 5 == 0:
            progress(f"epoch {epoch} of {EPOCHS}, loss {total / len(labels):.4f}")


def _moved(pixels: torch.Tensor) -> torch.Tensor:
    """The batch as it is, or (half of the time) moved by up to one pixel each way, with background moving in."""
    if torch.rand(1) < 0.5:
        return pixels
    right, down = torch.randint(0, 3, (2,)).tolist()
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=float(pixels.min()))
    return padded[:, :, down : down + pixels.shape[2], right : right + pixels.shape[3]]


def accuracy(network: torch.nn.Module, folder: Path) -> float:
    """The share of held-out images whose class `network` finds."""
    pixels, labels = decode(held_out(), read_config(folder / "config.pbtxt"))
    with torch.inference_mode():
        return float((network(pixels).argmax(1) == labels).double().mean())


def save_eager(network: torch.nn.Module, path: Path) -> None:
    torch.save(network.state_dict(), path)


def save_torchscript(network: torch.nn.Module, path: Path) -> None:
    with quiet_jit():
        torch.jit.script(network).save(str(path))  # type: ignore[no-untyped-call]


def save_onnx(network: torch.nn.Module, path: Path) -> None:
    """Exports with an open batch axis; input `image`, output `logits`."""
    with warnings.catch_warnings():
        # the TorchScript exporter is deprecated as a whole; its successor needs onnxscript and is slower
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
