"""Building the shipped models into a repository of the test's own, and serving what was built."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from jitney.backends.eager import read_state_dict
from jitney.codecs import create as create_codec
from jitney.core.model_config import ModelConfig
from jitney.core.request import Part
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec
from jitney.tools.dev import build_models, digits
from jitney.tools.dev.resnet import ResNet, seeded

DIGITS = {"digits_eager": "eager", "digits_torchscript": "torchscript", "digits_onnx": "onnxruntime"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The digits models, built once for this module (trains for a few seconds)."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_models, "CACHE", tmp_path_factory.mktemp("cache"))
        build_models._digits_network.cache_clear()
        assert build_models.main(["--repository", str(folder), "--models", ",".join(DIGITS)]) == 0
        yield folder


def served(repository: Path, name: str) -> ModelConfig:
    shape = [spec("image", 1, 8, 8)], [spec("logits", 10)]
    return config(repository / name / "1", DIGITS[name], *shape, parameters={"warmup": "on"})


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_at_least_97_percent_of_the_held_out_images_are_right(repository: Path, name: str) -> None:
    images = digits.held_out()
    pixels, labels = digits.decode(images, digits.read_config(repository / name / "config.pbtxt"))
    backend = loaded(served(repository, name))
    got = answers(backend, [request(image=chunk.numpy()) for chunk in pixels.split(30)])  # type: ignore[no-untyped-call]
    found = np.concatenate([arrays(answer)["logits"] for answer in got]).argmax(1)
    assert len(images) == 360
    assert (found == labels.numpy()).mean() >= 0.97


@pytest.mark.slow
def test_the_three_formats_agree(repository: Path) -> None:
    pixels, _ = digits.decode(digits.held_out()[:8], digits.read_config(repository / "digits_onnx" / "config.pbtxt"))
    logits = [
        arrays(answers(loaded(served(repository, name)), [request(image=pixels.numpy())])[0])["logits"] for name in DIGITS
    ]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-4)


@pytest.mark.slow
def test_the_second_build_has_nothing_to_do(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = repository / "digits_onnx" / "1" / "model.onnx"
    before = file.stat().st_mtime_ns
    assert build_models.main(["--repository", str(repository), "--models", "digits_onnx"]) == 0
    assert "digits_onnx: up to date" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"damaged")
    assert build_models.main(["--repository", str(repository), "--models", "digits_onnx"]) == 0
    assert "digits_onnx: trained" in capsys.readouterr().out
    assert not list(file.parent.glob(".partial*"))


@pytest.mark.slow
def test_the_held_out_images_lie_beside_it(repository: Path) -> None:
    files = sorted((build_models.CACHE / "digits").glob("*.png"))
    assert len(files) == 360
    for file, (png, label) in list(zip(files, digits.held_out(), strict=True))[:20]:
        assert file.read_bytes() == png
        assert file.stem.endswith(f"_{label}")


def test_the_split_is_fixed_disjoint_and_stratified() -> None:
    held, train = digits.held_out(), digits.training()
    assert (len(held), len(train)) == (360, 1437)
    counts = np.bincount([label for _, label in held])
    assert counts.min() >= 34
    assert counts.max() <= 38
    with Image.open(io.BytesIO(held[0][0])) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))


@pytest.mark.parametrize("name", build_models.RECIPES)
def test_the_shipped_configurations_fit_their_codec(name: str) -> None:
    model = digits.read_config(build_models.SHIPPED / name / "config.pbtxt")
    assert model.name == name
    assert model.codec == "image_classifier"
    pixels = create_codec(model).decode([Part("body", digits.held_out()[0][0])], {})[0]
    assert pixels.shape == (1, *model.inputs[0].dims)


def test_resnet152_takes_a_real_weight_file_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a small network in ResNet-152's place: what is tested is the way of the file."""
    monkeypatch.setattr(build_models, "CACHE", tmp_path / "cache")
    monkeypatch.setattr("jitney.tools.dev.resnet.ResNet", lambda depth, classes=10: ResNet(18, 10))
    weights = tmp_path / "resnet152-real.pth"
    state = {name: tensor + 1 for name, tensor in seeded(18, 10, seed=3).state_dict().items()}
    torch.save({name: tensor for name, tensor in state.items() if "num_batches" not in name}, weights)
    command = ["--repository", str(tmp_path / "repository"), "--models", "resnet152"]
    built = tmp_path / "repository" / "resnet152" / "1" / "model.safetensors"

    assert build_models.main(command) == 0
    assert "seeded weights" in capsys.readouterr().out
    assert build_models.main([*command, "--resnet152-weights", str(weights)]) == 0
    assert f"weights of {weights}" in capsys.readouterr().out
    assert torch.equal(read_state_dict(built)["fc.weight"], state["fc.weight"])
    assert build_models.main(command) == 0
    assert f"up to date, weights of {weights}" in capsys.readouterr().out
    assert (built.parent / "model.py").is_file()

    save_file({"fc.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    assert build_models.main([*command, "--resnet152-weights", str(tmp_path / "wrong.safetensors")]) == 1
    assert "wrong.safetensors does not hold ResNet-152's weights" in capsys.readouterr().err
    assert torch.equal(read_state_dict(built)["fc.weight"], state["fc.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "digits_onnx,other"], "no model 'other'; expected some of digits_eager"),
        (["--resnet152-weights", "/nowhere.pth"], "/nowhere.pth does not exist"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_models.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_1000_names_of_imagenet_are_all_there_once() -> None:
    names = json.loads((build_models.SHIPPED / "resnet152" / "index_to_name.json").read_text())
    assert list(names) == [str(index) for index in range(1000)]
    assert len(set(names.values())) == 1000
    assert (names["0"], names["207"], names["281"], names["999"]) == ("tench", "golden retriever", "tabby", "toilet tissue")
