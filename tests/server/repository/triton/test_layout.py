"""Folders at a wrong level, without versions or empty: each gets a sentence that says where things belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import ModelConfig
from jitney.server.repository.triton.layout import check_file, check_level, listing, loose_ends, misplaced_configs
from jitney.server.repository.triton.repository import TritonRepository


def make(root: Path, *paths: str) -> Path:
    """Files, and folders where a path ends in a slash."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_text("")
    return root


@pytest.mark.parametrize(
    ("paths", "opened", "right"),
    [
        (["m/1/model.onnx"], "m", "."),
        (["m/config.pbtxt", "m/labels.txt"], "m", "."),
        (["m/3/resnet.pt"], "m", "."),
        (["m/1/model.py"], "m/1", "."),
        (["store/m/12/model.onnx"], "store/m/12", "store"),
    ],
)
def test_a_models_or_a_versions_folder_is_no_repository(tmp_path: Path, paths: list[str], opened: str, right: str) -> None:
    make(tmp_path, *paths)
    with pytest.raises(InvalidConfig) as caught:
        TritonRepository([tmp_path / opened], gpus=[])
    kind = "version" if opened[-1].isdecimal() else "model"
    assert f"'{tmp_path / opened}' is the folder of a {kind}, which holds " in str(caught.value)
    assert str(caught.value).endswith(f"start with its parent, --model-repository {tmp_path / right}")


@pytest.mark.parametrize(
    "paths",
    [
        ["m/1/model.onnx"],
        ["m/1/model.onnx", "config.pbtxt"],  # something was left lying about
        ["1/1/model.onnx"],  # a model may be called 1
        ["ensemble/1/", "model.py"],
        [".git/config", "README.md"],
    ],
)
def test_repositories_are_left_alone(tmp_path: Path, paths: list[str]) -> None:
    check_level(make(tmp_path, *paths))


def test_empty_repositories_and_loose_files_are_told(tmp_path: Path) -> None:
    empty, loose = make(tmp_path, "empty/", "loose/net.onnx", "loose/m/1/model.py").glob("*")
    empty, loose = sorted((empty, loose))
    (sentence,) = loose_ends(empty)
    assert sentence.startswith(f"model repository '{empty}' holds no models") and f"{empty}/MODEL/1/model.onnx" in sentence
    (sentence,) = TritonRepository([loose], gpus=[]).loose_ends()
    assert sentence.startswith(f"{loose}/net.onnx: passed over") and sentence.endswith(f"to {loose}/net/1/model.onnx")
    assert loose_ends(make(tmp_path / "full", "m/1/model.py", "README.md")) == []


@pytest.mark.parametrize(
    ("paths", "advice"),
    [
        (["m/model.onnx"], "expected {m}/1/ with the model's file in it: move model.onnx there"),
        (["m/model.onnx", "m/config.pbtxt", "m/labels.txt"], ": move model.onnx there"),
        (["m/v1/model.pt"], "found v1/: rename it to a number from 1 on, without leading zeros"),
        (["m/01/model.pt"], "found 01/: rename it to a number"),
        (
            ["m/inner/1/model.py", "m/other/1/model.py"],
            "folders of models (inner, other): start with --model-repository {m}",
        ),
        (["m/a/b/1/model.py"], "found folders of models (b): start with --model-repository {m}/a"),
        (["m/a/.git/", "m/b/c/d/config.pbtxt"], "found folders of models (d): start with --model-repository {m}/b/c"),
        (["m/"], "{m} has no numbered version folder; expected {m}/1/"),
    ],
)
def test_a_model_without_a_version_says_what_is_missing(tmp_path: Path, paths: list[str], advice: str) -> None:
    make(tmp_path, *paths)
    with pytest.raises(InvalidConfig) as caught:
        TritonRepository([tmp_path], gpus=[]).read("m")
    assert str(caught.value).startswith("at least one version must be available under the version policy of model 'm': ")
    assert advice.format(m=tmp_path / "m") in str(caught.value)


@pytest.mark.parametrize("paths", [["m/config.pbtx"], ["m/Config.pbtxt.txt"], ["m/1/config.pbtxt"], ["m/config.prototxt"]])
def test_a_configuration_that_is_not_read_is_told(
    tmp_path: Path, paths: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "m/1/model.py", *paths)
    with pytest.raises(InvalidConfig, match="there is no such file"):
        TritonRepository([tmp_path], auto_complete=False, gpus=[]).read("m")
    assert f"{tmp_path}/{paths[0]} is not read: a model's configuration is {tmp_path}/m/config.pbtxt" in caplog.text


def test_configurations_where_they_belong_and_copies_of_them_are_not_told(tmp_path: Path) -> None:
    assert misplaced_configs(make(tmp_path, "config.pbtxt", "config.pbtxt.bak", "1/model.py", "labels.txt")) == []


def test_a_version_without_the_models_file_says_what_is_there_instead(tmp_path: Path) -> None:
    make(tmp_path, "1/modle.py", "2/")
    config = ModelConfig("m", "1", "python", version_directory=str(tmp_path / "1"), filename="model.py")
    with pytest.raises(
        InvalidConfig, match=r"unable to find '.*/1/model.py' for model 'm' in a folder which holds modle.py"
    ):
        check_file(config)
    make(tmp_path, "1/model.py")
    check_file(config)


def test_a_long_listing_is_cut(tmp_path: Path) -> None:
    assert listing(tmp_path) == "which is empty"
    make(tmp_path, "a", "b/", ".hidden")
    assert listing(tmp_path) == "which holds a, b/"
    make(tmp_path, *"cdefgh")
    assert listing(tmp_path) == "which holds a, b/, c, d, e and 3 more"
