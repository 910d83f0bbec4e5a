"""Which archives are loaded at the start: load_models in all its forms, or what a snapshot restores."""

import json
from pathlib import Path
from typing import Any

import pytest

from jitney.server.errors import InvalidConfig
from jitney.server.settings import Settings
from jitney.server.startup import archives, planned


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
