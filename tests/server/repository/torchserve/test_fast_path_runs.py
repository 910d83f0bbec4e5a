"""Archives with the built-in image_classifier, packed by our archiver, opened by the store, run by the backend it chose."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.backends.factory import create
from jitney.core.request import Instance, Request
from jitney.core.tensor import Tensor
from jitney.server.repository.torchserve.model_store import ModelStore
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.settings.settings import Settings
from jitney.tools.archive import ModelArchiverConfig, generate_model_archive

torch = pytest.importorskip("torch")

NET = """
import torch
from parts import Mean

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.fc = Mean(), torch.nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.mean(x))
"""
PARTS = "import torch\n\nclass Mean(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3))\n"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.path", sys.path[:])  # the eager backend puts the archive's folder in front
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "index_to_name.json").write_text(json.dumps({str(n): f"class {n}" for n in range(5)}))
    fc = torch.nn.Linear(3, 5)
    torch.save({"fc.weight": fc.weight, "fc.bias": fc.bias}, tmp_path / "weights.pth")
    return fc


def packed(folder: Path, kind: str, fc: Any) -> None:
    options: dict[str, Any] = {
        "serialized_file": "weights.pth",
        "model_file": "net.py",
        "extra_files": "index_to_name.json,parts.py",
    }
    if kind == "torchscript":
        pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), fc)
        with pytest.warns(DeprecationWarning):
            torch.jit.save(torch.jit.trace(pooled, torch.zeros(1, 3, 8, 8)), "scripted.pt")
        options = {"serialized_file": "scripted.pt", "extra_files": "index_to_name.json"}
    generate_model_archive(ModelArchiverConfig("net", "1.0", "image_classifier", export_path="model_store", **options))


@pytest.mark.parametrize("kind", ["eager", "torchscript"])
def test_the_model_of_an_archive_answers(tmp_path: Path, sources: Any, kind: str) -> None:
    packed(tmp_path, kind, sources)
    store = ModelStore(Settings.load({"model_store": "model_store"}, {}, tmp_path), gpus=())
    config = store.resolve(Registration("net.mar", batch_size=4))
    assert (config.backend, config.codec) == (kind, "image_classifier")
    images = np.random.default_rng(0).random((2, 3, 224, 224), dtype=np.float32)
    backend = create(config)
    backend.load(config, Instance("net_0"))
    answers: dict[int, Any] = {}
    requests = [Request(tensors=[Tensor.from_numpy("INPUT__0", image[None])]) for image in images]
    backend.execute(requests, answers.__setitem__)
    with torch.inference_mode():
        expected = sources(torch.from_numpy(images).mean((2, 3))).numpy()
    for index, row in enumerate(expected):
        assert answers[index].error is None
        np.testing.assert_allclose(answers[index].tensors[0].numpy()[0], row, rtol=1e-4, atol=1e-5)
    store.close()


def test_the_fast_path_can_be_switched_off(tmp_path: Path, sources: Any) -> None:
    packed(tmp_path, "eager", sources)
    settings = Settings.load({"model_store": "model_store", "fast_path": "false"}, {}, tmp_path)
    store = ModelStore(settings, gpus=())
    assert store.resolve(Registration("net.mar")).backend == "handler"
    store.close()
