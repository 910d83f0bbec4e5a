from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.settings import properties, snapshots
from jitney.server.settings.keys import entry_of
from jitney.server.settings.settings import Settings
from jitney.server.settings.snapshots import Registered
from jitney.tests.fakes.recordings import OWN

KIT = OWN / "torchserve"
NOON = datetime.datetime(2026, 11, 22, 7, 31, 21, 41_999, tzinfo=datetime.UTC)
NOOP = Registered("noop", "1.0", True, "noop.mar", 2, 2, 3, 30, 20, 120)
ECHO = [
    Registered("echo_batch", "1.0", True, "echo_batch.mar", 1, 1, 1, 100, 120, 120),
    Registered("echo_batch", "2.0", False, "echo_batch_v2.mar", 1, 1, 1, 100, 120, 120),
]


def test_names_carry_time_and_reason() -> None:
    assert snapshots.file_name("startup", NOON) == "20261122073121041-startup.cfg"


def test_the_newest_is_found_by_name(tmp_path: Path) -> None:
    assert snapshots.newest(tmp_path / "nosuch") is None
    assert snapshots.newest(tmp_path) is None
    for name in (
        "20260101000000000-startup.cfg",
        "20260101000000002-shutdown.cfg",
        "20260101000000001-snapshot.cfg",
        "x.cfg",
    ):
        (tmp_path / name).touch()
    newest = snapshots.newest(tmp_path)
    assert newest is not None and newest.name == "20260101000000002-shutdown.cfg"


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    settings = Settings.load({"model_store": "store", "disable_token_auth": True}, {}, tmp_path)
    name = snapshots.file_name("snapshot", NOON)
    content = snapshots.text(settings.live, name, NOON, [NOOP, *ECHO], "0.12.0")
    path = snapshots.write(settings.snapshot_folder, name, content)
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(settings.snapshot_folder.iterdir()) == [path]
    again = Settings.load({}, {}, tmp_path)
    assert again.source == str(path)
    assert again.disable_token_authorization and again.model_store == str(tmp_path / "store")
    assert again.model_snapshot is not None
    assert snapshots.restored(again.model_snapshot, 120, 120) == [NOOP, *ECHO]


def test_a_snapshot_with_a_password_is_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings.load({"keystore_pass": "s3cret"}, {}, tmp_path)
    path = snapshots.write(tmp_path, "a.cfg", snapshots.text(settings.live, "a.cfg", NOON, [], "0.12.0"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_default_versions_are_restored_first_and_left_out_times_are_filled_in() -> None:
    entry = {"minWorkers": 1, "maxWorkers": 5, "batchSize": 1, "maxBatchDelay": 5000, "marName": "m.mar"}
    limited = {"responseTimeout": 7, "startupTimeout": 0}
    versions = {"1.0": {"defaultVersion": False, **entry}, "2.0": {"defaultVersion": True, **entry, **limited}}
    document = {"name": "startup.cfg", "modelCount": 1, "models": {"m": versions}}
    snapshots.check(document, entry_of)
    models = snapshots.restored(document, 120, 90)
    assert [(model.version, model.response_timeout, model.startup_timeout) for model in models] == [
        ("2.0", 7, 0),
        ("1.0", 120, 90),
    ]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "expected {"),
        ({"models": {"m": 3}}, "expected {"),
        ({"models": {"m": {"1.0": {}}}}, "'m, 1.0': expected an object with defaultVersion"),
        ({"models": {"m": {"1.0": dict.fromkeys(snapshots.MANDATORY, "x")}}}, "expected bool for defaultVersion"),
    ],
)
def test_a_document_that_cannot_be_restored_is_refused(document: dict[Any, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        snapshots.check(document, entry_of)


def test_archives_that_are_gone_are_named(tmp_path: Path) -> None:
    (tmp_path / "noop.mar").touch()
    assert snapshots.missing_archives([NOOP, *ECHO], tmp_path) == ["echo_batch.mar", "echo_batch_v2.mar"]


@pytest.mark.parametrize("record", ["001.after_start", "003.after_register_zero", "010.after_scale", "016.after_unregister"])
def test_the_recorded_files_read_and_write_alike(tmp_path: Path, record: str) -> None:
    content = json.loads((KIT / "golden" / f"snapshot.{record}.json").read_text())["content"]
    raw = content["text"].replace("{{model_store}}", "/models").replace("{{workdir}}", "/work")
    recorded = properties.parse(raw)
    document = json.loads(recorded["model_snapshot"])
    (tmp_path / "c.cfg").write_text(raw)
    settings = Settings.load({"ts_config": "c.cfg"}, {}, tmp_path)
    assert settings.model_snapshot == document
    models = snapshots.restored(document, 120, 120)
    created = datetime.datetime.fromtimestamp(document["created"] / 1000, datetime.UTC)
    ours = properties.parse(snapshots.text(settings.live, document["name"], created, models, "0.12.0"))
    for key in recorded.keys() - {"python", "tsConfigFile"}:
        assert ours[key] == recorded[key]
