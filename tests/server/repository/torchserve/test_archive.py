from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jitney.core.errors import InvalidArchive
from jitney.server.repository.torchserve.archive import MANIFEST, Manifest, open_archive, parse_manifest
from jitney.tests.fakes.recordings import OWN

KIT = OWN / "torchserve"
FULL = {
    "createdOn": "22/11/2026 06:58:52",
    "runtime": "python",
    "model": {
        "modelName": "digits",
        "serializedFile": "digits.pt",
        "handler": "digits_handler.py:entry",
        "modelFile": "net.py",
        "modelVersion": "1.0",
        "requirementsFile": "requirements.txt",
        "configFile": "model-config.yaml",
    },
    "archiverVersion": "0.12.0",
}


def manifest(**changes: Any) -> Manifest:
    full: Any = FULL["model"]
    model = {key: value for key, value in (full | changes).items() if value is not ...}
    return parse_manifest(json.dumps(FULL | {"model": model}).encode())


def folder(path: Path, document: dict[str, Any] = FULL) -> Path:
    (path / "MAR-INF").mkdir(parents=True)
    (path / MANIFEST).write_text(json.dumps(document))
    return path


def test_a_manifest_is_read() -> None:
    read = manifest()
    assert (read.model_name, read.model_version, read.runtime, read.handler) == (
        "digits",
        "1.0",
        "python",
        "digits_handler.py:entry",
    )
    assert (read.serialized_file, read.model_file) == ("digits.pt", "net.py")
    assert (read.requirements_file, read.config_file) == ("requirements.txt", "model-config.yaml")
    assert read.document["createdOn"] == FULL["createdOn"]


def test_older_and_unknown_keys_are_kept_and_numbers_are_text() -> None:
    document = {
        "runtime": "python3",
        "implementationVersion": "1.0",
        "model": {"modelName": "m", "modelVersion": 2.0, "x": [1]},
    }
    read = parse_manifest(json.dumps(document).encode())
    assert (read.runtime, read.model_version, read.handler) == ("python3", "2.0", "")
    assert read.document["model"]["x"] == [1]


def test_values_are_read_as_torchserve_reads_them() -> None:
    document = {"runtime": "PYTHON", "model": {"modelName": "m", "modelVersion": True}}
    read = parse_manifest(json.dumps(document).encode())
    assert (read.runtime, read.model_version) == ("python", "true")


@pytest.mark.parametrize("value", [..., None, ""])
def test_the_name_may_come_from_elsewhere(value: Any) -> None:
    assert manifest(modelName=value).model_name == ""


def test_what_is_left_out_is_torchserve_s_default() -> None:
    assert manifest(modelVersion=...).model_version == manifest(modelVersion=None).model_version == "1.0"
    read = parse_manifest(b"{}")
    assert (read.model_name, read.model_version, read.runtime, read.handler) == ("", "1.0", "python", "")
    with pytest.raises(InvalidArchive) as error:
        manifest(modelVersion="")
    assert error.value.kind == "model_version"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"model": null}', "model"),
        (b'{"model": 3}', "model"),
        (b'{"runtime": null, "model": {"modelName": "m", "modelVersion": "1"}}', "runtime"),
        (b'{"runtime": "cobol", "model": {"modelName": "m", "modelVersion": "1"}}', "runtime"),
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"runtime": "python", "model": {"modelName": ["m"], "modelVersion": "1"}}', "damaged"),
        (b'{"runtime": "python", "model": {"modelName": "m\\u0000", "modelVersion": "1"}}', "damaged"),
    ],
)
def test_what_a_manifest_lacks_is_said(raw: bytes, kind: str) -> None:
    with pytest.raises(InvalidArchive) as error:
        parse_manifest(raw)
    assert error.value.kind == kind


@pytest.mark.parametrize("key", ["serializedFile", "modelFile", "requirementsFile", "configFile"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../b", "a//b"])
def test_files_outside_of_the_archive_are_refused(key: str, name: str) -> None:
    with pytest.raises(InvalidArchive) as error:
        manifest(**{key: name})
    assert (error.value.kind, error.value.entry) == ("file", key)


@given(st.binary(max_size=200))
@example(b'{"": [[]]}')
def test_noise_is_refused_not_raised(raw: bytes) -> None:
    try:
        parse_manifest(raw)
    except InvalidArchive:
        return
    assert isinstance(json.loads(raw), dict)  # which is a manifest, if one that says nothing


def test_a_folder_is_used_in_place(tmp_path: Path) -> None:
    archive = open_archive(folder(tmp_path / "m"), tmp_path / "into")
    assert archive.directory == tmp_path / "m" and archive.has_manifest and not archive.unpacked
    assert not (tmp_path / "into").exists()


def test_a_folder_that_holds_one_folder_stands_for_it(tmp_path: Path) -> None:
    folder(tmp_path / "outer" / "inner")
    (tmp_path / "outer" / ".hidden").touch()
    assert open_archive(tmp_path / "outer", tmp_path / "into").directory == tmp_path / "outer" / "inner"
    (tmp_path / "outer" / "second").touch()
    plain = open_archive(tmp_path / "outer", tmp_path / "into")
    assert plain.directory == tmp_path / "outer" and not plain.has_manifest and plain.manifest.model_version == "1.0"
    assert open_archive(folder(tmp_path / "only"), tmp_path / "into").directory == tmp_path / "only"


def test_an_archive_with_a_bad_manifest_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as archive:
        archive.writestr(MANIFEST, '{"model": null}')
        archive.writestr("a.py", "1")
    with pytest.raises(InvalidArchive):
        open_archive(tmp_path / "a.mar", tmp_path / "into")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mar"]


def test_another_kind_of_file_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "a.mar").write_bytes(b"not an archive")
    with pytest.raises(InvalidArchive) as error:
        open_archive(tmp_path / "a.mar", tmp_path / "into")
    assert error.value.kind == "not_archive"


def test_the_recorded_archives_open(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for path in sorted((KIT / "mars").glob("*.mar")):
        try:
            found[path.stem] = open_archive(path, tmp_path / path.stem)
        except InvalidArchive as error:
            found[path.stem] = error.kind
    assert found.pop("notzip") == "not_archive"
    assert not found.pop("nomanifest").has_manifest
    assert len(found) >= 20
    for name, archive in found.items():
        with zipfile.ZipFile(KIT / "mars" / f"{name}.mar") as packed:
            document = json.loads(packed.read(MANIFEST))
        assert archive.manifest.model_name == document["model"]["modelName"]
        assert archive.manifest.model_version == document["model"]["modelVersion"]
        assert archive.file(archive.manifest.handler).is_file()
    assert found["yamlcfg"].file(found["yamlcfg"].manifest.config_file).is_file()
    assert found["echo_batch_v2"].manifest.model_version == "2.0"
