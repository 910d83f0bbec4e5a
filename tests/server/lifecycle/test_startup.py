"""Which archives are loaded at the start: load_models in all its forms, or what a snapshot restores."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.lifecycle.startup import archives, chosen, planned, tell_strays, with_archives
from jitney.server.settings.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    for name in ("b.mar", "a.mar", "c.tar.gz", "d.model", "notes.txt", ".hidden.mar", "folder/MAR-INF/MANIFEST.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def settings(store: Path, **values: Any) -> Settings:
    return Settings.load({"model_store": str(store), **values}, {}, store.parent)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", []),
        ("all", [(None, "a.mar"), (None, "b.mar"), (None, "c.tar.gz"), (None, "d.model"), (None, "folder")]),
        ("ALL", [(None, "a.mar"), (None, "b.mar"), (None, "c.tar.gz"), (None, "d.model"), (None, "folder")]),
        ("a.mar,b.mar", [(None, "a.mar"), (None, "b.mar")]),
        ("x=a.mar", [("x", "a.mar")]),
        ("x=https://host/a.mar?key=1", [("x", "https://host/a.mar?key=1")]),
        ("https://host/a.mar?key=1", [(None, "https://host/a.mar?key=1")]),
        ("none", [(None, "none")]),
    ],
)
def test_the_forms_of_load_models(store: Path, wanted: str, expected: list[tuple[str | None, str]]) -> None:
    assert archives(settings(store, models=wanted)) == expected


def snapshot(name: str, default: bool, archive: str) -> dict[str, Any]:
    numbers = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 3, "maxBatchDelay": 4}
    return {name: {"defaultVersion": default, "marName": archive, **numbers}}


def test_a_snapshot_stands_in_place_of_load_models_with_default_versions_first(store: Path) -> None:
    document = {"models": {"m": {**snapshot("1.0", False, "a.mar"), **snapshot("2.0", True, "b.mar")}}}
    (store.parent / "config.properties").write_text(f"model_snapshot={json.dumps(document)}")
    plan = planned(settings(store, models="c.tar.gz"))
    assert [(item.registration.model_name, item.registration.url) for item in plan] == [("m", "b.mar"), ("m", "a.mar")]
    assert [item.restored.batch_size for item in plan if item.restored] == [3, 3]


def test_a_snapshot_of_archives_that_the_store_lacks_is_refused(store: Path) -> None:
    document = {"models": {"m": snapshot("1.0", True, "gone.mar")}}
    (store.parent / "config.properties").write_text(f"model_snapshot={json.dumps(document)}")
    with pytest.raises(InvalidConfig, match=r"model_snapshot names gone\.mar"):
        planned(settings(store))


# -- jitney serve --model-store ------------------------------------------------------------------------------------------------


class Control:
    """A repository with one model."""

    def names(self) -> list[str]:
        return ["echo"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models" / "echo" / "1").mkdir(parents=True)
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("flags", "archives_wanted", "models_wanted"),
    [
        ({}, "all", None),
        ({"load_model": ["*"]}, "all", None),
        ({"load_model": ["echo"]}, "", ["echo"]),
        ({"load_model": ["echo", "a"]}, "a.mar", ["echo"]),
        ({"load_model": ["a.mar", "c"]}, "a.mar,c.tar.gz", []),
        ({"load_model": ["gone"]}, "", ["gone"]),
        ({"model_control_mode": "explicit"}, "", []),
        ({"model_control_mode": "explicit", "load_model": ["a"]}, "a.mar", []),
        ({"models": "b.mar", "load_model": ["echo"]}, "b.mar", ["echo"]),
    ],
)
def test_both_kinds_are_loaded_by_the_same_words(
    store: Path, models: Path, flags: dict[str, Any], archives_wanted: str, models_wanted: list[str] | None
) -> None:
    found = with_archives(settings(store, model_repository=[str(models)], **flags))
    wanted = chosen(Control(), found)  # type: ignore[arg-type]
    assert (found.load_models, wanted) == (archives_wanted, ["echo"] if models_wanted is None else models_wanted)


@pytest.mark.parametrize(
    ("names", "expected"), [([], "all"), (["a", "b.mar"], "a.mar,b.mar"), (["gone"], "gone"), (["*"], "all")]
)
def test_names_choose_archives_where_there_is_no_repository(store: Path, names: list[str], expected: str) -> None:
    assert with_archives(settings(store, load_model=names)).load_models == expected


def test_an_archive_has_one_worker_unless_something_says_more(store: Path) -> None:
    assert with_archives(settings(store)).default_workers_per_model == 1
    assert with_archives(settings(store, default_workers_per_model="3")).default_workers_per_model == 3


@pytest.mark.parametrize("place", ["a.mar", "echo/a.mar", "echo/1/a.mar", "a/MAR-INF/MANIFEST.json"])
def test_archives_in_a_repository_are_named_with_what_to_do(
    models: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    (models / place).parent.mkdir(parents=True, exist_ok=True)
    (models / place).touch()
    with caplog.at_level(logging.WARNING):
        tell_strays(Settings.load({"model_repository": [str(models)]}, {}, models))
    (record,) = caplog.records
    named = models / place.removesuffix("/MAR-INF/MANIFEST.json")
    assert record.getMessage().startswith(f"{named} is a") and "--model-store DIR" in record.getMessage()


def test_a_repository_that_is_the_store_too_has_no_strays(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    (models / "a.mar").touch()
    tell_strays(Settings.load({"model_repository": [str(models)], "model_store": str(models)}, {}, models))
    assert caplog.records == []
