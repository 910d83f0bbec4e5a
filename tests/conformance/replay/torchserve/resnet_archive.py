"""The archive that was recorded with too much weight to lie here: `resnet-152-batch_v2.mar`, version 2.0, 223 MB.

Weights are seeded; BatchNorm's statistics come from one pass over three pictures and five random ones, and the last layer is
scaled, so that the answers are neither flat nor saturated. The result is the same up to the last bits of float32's arithmetic.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

NAME = "resnet-152-batch_v2"
SOURCES = ("resnet152_model.py", "resnet_parts.py")
MANIFEST = {
    "createdOn": "22/11/2026 00:00:00",
    "runtime": "python",
    "model": {
        "modelName": NAME,
        "serializedFile": "resnet152-seed0.pth",
        "handler": "image_classifier",
        "modelFile": SOURCES[0],
        "modelVersion": "2.0",
    },
    "archiverVersion": "0.12.0",
}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(path: Path) -> torch.Tensor:
    """Resize(256), CenterCrop(224), ToTensor, Normalize: float32 [3, 224, 224]."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    size = (256, int(256 * height / width)) if width <= height else (int(256 * width / height), 256)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2.0), round((size[1] - 224) / 2.0)
    values = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    values = (values - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def weights(recordings: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    sys.path.insert(0, str(recordings))
    try:
        model: torch.nn.Module = importlib.import_module("resnet152_model").ResNet152ImageClassifier()
    finally:
        sys.path.remove(str(recordings))
    pictures = [pixels(recordings / "inputs" / name) for name in ("kitten.jpg", "dog.jpg", "croco.jpg")]
    batch = torch.stack([*pictures, *(torch.randn(3, 224, 224) for _ in range(5))])
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    last: Any = model.fc
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None
        model.train()
        model(batch)
        for norm in norms:
            norm.momentum = 0.1
        model.eval()
        last.weight.mul_(2.5 / model(batch).std())
        last.bias.zero_()
    return model.state_dict()


def build(recordings: Path, folder: Path) -> Path:
    """Writes the archive into a folder."""
    target = folder / f"{NAME}.mar"
    names = {str(index): [f"n{index:08d}", f"class_{index}"] for index in range(1000)}
    with (
        tempfile.TemporaryDirectory() as temporary,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        state = Path(temporary) / "resnet152-seed0.pth"
        torch.save(weights(recordings), state)
        archive.write(state, state.name)
        for source in SOURCES:
            archive.write(recordings / source, source)
        archive.writestr("index_to_name.json", json.dumps(names))
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(MANIFEST, indent=2))
    return target


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
