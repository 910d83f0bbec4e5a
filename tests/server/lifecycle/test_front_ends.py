"""How many front ends the start chooses where nobody says it."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.lifecycle import front_ends
from jitney.server.lifecycle.front_ends import with_front_ends
from jitney.server.lifecycle.startup import planned
from jitney.server.repository.triton.repository import TritonRepository
from jitney.server.settings.settings import Settings


def model(folder: Path, name: str, **parameters: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    lines = (f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items())
    (folder / name / "config.pbtxt").write_text("".join(lines))


def archive(path: Path, handler: str) -> None:
    document = {"runtime": "python", "model": {"modelName": "m", "modelVersion": "1.0", "handler": handler}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(document))


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda count: monkeypatch.setattr(front_ends, "usable_cores", lambda: count)


def chosen(settings: Settings) -> int:
    folders = [Path(folder) for folder in settings.model_repository]
    repository = TritonRepository(folders) if folders else None
    names = repository.names() if repository is not None else []
    return with_front_ends(settings, planned(settings), repository, names).front_ends


def settings(folder: Path, **values: Any) -> Settings:
    return Settings.load(values, {}, folder)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (11, 2), (12, 3), (16, 4), (48, 12), (96, 12)]
)
def test_a_model_with_pictures_has_a_front_end_for_every_fourth_core(
    tmp_path: Path, cores: Any, caplog: pytest.LogCaptureFixture, count: int, expected: int
) -> None:
    cores(count)
    model(tmp_path / "models", "a", codec="json")
    model(tmp_path / "models", "cats", codec="image_classifier")
    with caplog.at_level(logging.INFO):
        assert chosen(settings(tmp_path, model_repository=str(tmp_path / "models"))) == expected
    (line,) = [record.getMessage() for record in caplog.records if "front_ends" in record.getMessage()]
    assert line.startswith(f"front_ends=auto: {expected}, since ")
    assert ("model 'cats', and may use" in line) is (expected > 1)


def test_an_explicit_number_wins_and_is_not_explained(tmp_path: Path, cores: Any, caplog: pytest.LogCaptureFixture) -> None:
    cores(64)
    model(tmp_path / "models", "cats", codec="object_detector")
    (tmp_path / "config.properties").write_text("front_ends=1\n")
    with caplog.at_level(logging.INFO):
        assert chosen(settings(tmp_path, model_repository=str(tmp_path / "models"))) == 1
    assert not any("front_ends" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"codec": "json"},
        {"codec": "text_classifier"},
        {"codec": "codec.py"},
        {"codec": "image_classifier", "decode": "device"},
    ],
)
def test_models_whose_pictures_the_server_does_not_decode_need_none(
    tmp_path: Path, cores: Any, parameters: dict[str, str]
) -> None:
    cores(64)
    model(tmp_path / "models", "m", **parameters)
    assert chosen(settings(tmp_path, model_repository=str(tmp_path / "models"))) == 1


def test_what_cannot_be_read_is_left_to_the_load(tmp_path: Path, cores: Any) -> None:
    cores(64)
    model(tmp_path / "models", "cats", codec="image_classifier")
    (tmp_path / "models/bad/1").mkdir(parents=True)
    (tmp_path / "models/bad/config.pbtxt").write_text("no configuration {")
    store = tmp_path / "store"
    store.mkdir()
    (store / "a.mar").write_bytes(b"PK\x03\x04 no archive")
    (store / "b.mar").write_bytes(b"")
    given = settings(tmp_path, model_repository=str(tmp_path / "models"), model_store=str(store), models="all")
    assert chosen(given) == 12


@pytest.mark.parametrize(
    ("handler", "properties", "expected"),
    [
        ("image_classifier", "", 12),
        ("image_classifier.py", "", 12),
        ("text_classifier", "", 1),
        ("image_classifier", "fast_path=false\n", 1),
        ("", "default_service_handler=image_classifier\n", 12),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_archives_whose_handler_has_a_codec_count(
    tmp_path: Path, cores: Any, handler: str, properties: str, expected: int, folder: bool
) -> None:
    cores(64)
    (tmp_path / "store").mkdir()
    archive(tmp_path / "store/m.mar", handler)
    if folder:
        with zipfile.ZipFile(tmp_path / "store/m.mar") as packed:
            packed.extractall(tmp_path / "store/unpacked")
        (tmp_path / "store/m.mar").unlink()
    (tmp_path / "config.properties").write_text(properties)
    assert chosen(settings(tmp_path, model_store=str(tmp_path / "store"), models="all")) == expected


def test_the_key_takes_a_number_or_the_word(tmp_path: Path) -> None:
    for text, expected in (("auto", 0), ("Auto", 0), ("3", 3)):
        (tmp_path / "config.properties").write_text(f"front_ends={text}\n")
        assert settings(tmp_path).front_ends == expected
    for text in ("0", "many", "257"):
        (tmp_path / "config.properties").write_text(f"front_ends={text}\n")
        with pytest.raises(InvalidConfig, match=r"front_ends.*expected an integer from 1 to 256, or auto"):
            settings(tmp_path)
    assert Settings.load({}, {"JITNEY_FRONT_ENDS": "2"}, tmp_path).front_ends == 2
