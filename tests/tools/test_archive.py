from __future__ import annotations

import datetime
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jitney.server.repository.torchserve.archive import open_archive
from jitney.tools.archive import ArchiverError, ModelArchiver, ModelArchiverConfig, generate_model_archive, main, manifest

NOON = datetime.datetime(2026, 11, 22, 12, 0, 0)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src" / "extra" / "deep").mkdir(parents=True)
    for name in ("handler.py", "net.py", "weights.pth", "index_to_name.json", "requirements.txt", "model-config.yaml"):
        (tmp_path / "src" / name).write_text(name)
    for name in ("extra/a.txt", "extra/deep/b.txt"):
        (tmp_path / "src" / name).write_text(name)
    return tmp_path


FULL = [
    *("--model-name", "net", "--version", "2.0", "--handler", "src/handler.py:entry", "--model-file", "src/net.py"),
    *("--serialized-file", "src/weights.pth", "--extra-files", "src/*.json,src/extra", "-r", "src/requirements.txt"),
    *("-c", "src/model-config.yaml", "--export-path", "out/store"),
]
NAMES = {
    *("handler.py", "net.py", "weights.pth", "index_to_name.json", "requirements.txt", "model-config.yaml"),
    *("a.txt", "deep/b.txt", "MAR-INF/MANIFEST.json"),
}


@pytest.mark.parametrize("handler", ["handler", "handler:entry", "handler.py", "handler.py:entry"])
def test_a_handler_s_file_needs_no_suffix(sources: Path, handler: str) -> None:
    path = generate_model_archive(ModelArchiverConfig("m", "1", f"src/{handler}"))
    with zipfile.ZipFile(path) as archive:
        assert "handler.py" in archive.namelist()
        assert json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["handler"] == handler


@pytest.mark.parametrize(
    ("form", "name"), [("default", "net.mar"), ("zip-store", "net.mar"), ("tgz", "net.tar.gz"), ("no-archive", "net")]
)
def test_what_is_packed_opens_again(sources: Path, capsys: pytest.CaptureFixture[str], form: str, name: str) -> None:
    assert main([*FULL, "--archive-format", form]) == 0
    path = sources / "out" / "store" / name
    assert capsys.readouterr().out.strip() == f"out/store/{name}"
    archive = open_archive(path, sources / "into")
    found = {str(file.relative_to(archive.directory)) for file in archive.directory.rglob("*") if file.is_file()}
    assert found == NAMES
    assert archive.file("deep/b.txt").read_text() == "extra/deep/b.txt"
    read = archive.manifest
    assert (read.model_name, read.model_version, read.runtime, read.handler) == ("net", "2.0", "python", "handler.py:entry")
    assert (read.serialized_file, read.model_file) == ("weights.pth", "net.py")
    assert (read.requirements_file, read.config_file) == ("requirements.txt", "model-config.yaml")
    assert [item.name for item in (sources / "out" / "store").iterdir()] == [name]


def test_formats_are_what_they_say(sources: Path) -> None:
    for form, method in (("default", zipfile.ZIP_DEFLATED), ("zip-store", zipfile.ZIP_STORED)):
        assert main([*FULL, "-f", "--archive-format", form]) == 0
        with zipfile.ZipFile("out/store/net.mar") as archive:
            assert {info.compress_type for info in archive.infolist()} == {method}
    assert main([*FULL, "--archive-format", "tgz"]) == 0
    with tarfile.open("out/store/net.tar.gz") as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {"net"}


def test_the_manifest_is_torch_model_archivers() -> None:
    config = ModelArchiverConfig("m", "1.0", "image_classifier", serialized_file="a/b/net.pt")
    assert json.dumps(manifest(config, NOON)) == json.dumps(
        {
            "createdOn": "22/11/2026 12:00:00",
            "runtime": "python",
            "model": {"modelName": "m", "serializedFile": "net.pt", "handler": "image_classifier", "modelVersion": "1.0"},
            "archiverVersion": "0.12.0",
        }
    )


def test_the_python_interface(sources: Path) -> None:
    path = ModelArchiver.generate_model_archive(ModelArchiverConfig("m", "1", "base_handler"))
    assert path.name == "m.mar" and zipfile.is_zipfile(path)


def test_nothing_is_overwritten_unasked(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FULL) == 0
    before = (sources / "out/store/net.mar").read_bytes()
    assert main([*FULL, "--version", "3.0"]) == 1
    assert "already exists; use -f/--force" in capsys.readouterr().err
    assert (sources / "out/store/net.mar").read_bytes() == before
    assert main([*FULL, "--version", "3.0", "--force"]) == 0
    assert (sources / "out/store/net.mar").read_bytes() != before


def test_a_folder_that_is_no_model_is_never_removed(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sources / "out/store/net").mkdir(parents=True)
    (sources / "out/store/net/precious").touch()
    assert main([*FULL, "--archive-format", "no-archive", "--force"]) == 1
    assert (sources / "out/store/net/precious").is_file()
    (sources / "out/store/net/precious").unlink()
    (sources / "out/store/net").rmdir()
    for _ in range(2):
        assert main([*FULL, "--archive-format", "no-archive", "--force"]) == 0


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
def test_folders_are_packed_as_by_torch_model_archiver(sources: Path, form: Any) -> None:
    """Without hidden ones, caches of Python and of macOS; what a link names is packed in its place."""
    for name in (".hidden", ".git/config", "deep/.venv/x", "deep/__pycache__/a.pyc", "__MACOSX/b", "c/d.txt"):
        (sources / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / "tree" / name).touch()
    (sources / "elsewhere").mkdir()
    (sources / "elsewhere/e.txt").touch()
    (sources / "tree/linked").symlink_to(sources / "elsewhere")
    (sources / "tree/c/up").symlink_to(sources / "tree")
    config = ModelArchiverConfig("m", "1", "base_handler", extra_files="tree", export_path="out", archive_format=form)
    made = generate_model_archive(config)
    opened = open_archive(made, sources / "opened")
    found = {path.relative_to(opened.directory).as_posix() for path in opened.directory.rglob("*") if path.is_file()}
    assert found == {"MAR-INF/MANIFEST.json", ".hidden", "c/d.txt", "linked/e.txt"}


def test_a_wildcard_that_finds_nothing_is_warned_of(sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ModelArchiverConfig("m", "1", "base_handler", extra_files="src/*.nosuch,src/[x]*,src/net.py", export_path="out")
    with zipfile.ZipFile(generate_model_archive(config)) as archive:
        assert "net.py" in archive.namelist()
    assert [record.getMessage() for record in caplog.records] == [
        f"--extra-files: the wildcard 'src/{pattern}' finds nothing" for pattern in ("*.nosuch", "[x]*")
    ]


def test_an_archive_does_not_pack_itself(sources: Path) -> None:
    config = ModelArchiverConfig("m", "1", "base_handler", extra_files="src", export_path="src", force=True)
    for _ in range(2):
        generate_model_archive(config)
    with zipfile.ZipFile("src/m.mar") as archive:
        assert "m.mar" not in archive.namelist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "../evil"}, "--model-name"),
        ({"model_name": "-x"}, "--model-name"),
        ({"version": " "}, "--version"),
        ({"version": "1\n"}, "--version"),
        ({"runtime": "cobol"}, "--runtime"),
        ({"archive_format": "rar"}, "--archive-format"),
        ({"handler": "nosuch_handler"}, "expected a file FILE.py"),
        ({"handler": "src/nosuch.py"}, "there is no file 'src/nosuch.py'"),
        ({"handler": "src/handler.py:not a name"}, "FILE.py:FUNCTION"),
        ({"handler": "src/handler:not a name"}, "FILE.py:FUNCTION"),
        ({"handler": "base_handler:handle"}, "expected a file FILE.py"),
        ({"serialized_file": "src/nosuch.pt"}, "--serialized-file: there is no file"),
        ({"model_file": "src"}, "--model-file: there is no file"),
        ({"extra_files": "src/nosuch.json"}, "--extra-files: there is no"),
        ({"extra_files": "src/net.py,other/NET.py"}, "both become"),
        ({"extra_files": "other"}, "MAR-INF"),
    ],
)
def test_what_cannot_be_packed_is_said_and_nothing_is_written(sources: Path, changes: dict[str, str], message: str) -> None:
    (sources / "other" / "MAR-INF").mkdir(parents=True)
    (sources / "other" / "NET.py").touch()
    (sources / "other" / "MAR-INF" / "MANIFEST.json").touch()
    asked: dict[str, Any] = {"model_name": "m", "version": "1", "handler": "base_handler", "export_path": "out"} | changes
    with pytest.raises(ArchiverError) as error:
        generate_model_archive(ModelArchiverConfig(**asked))
    assert message in str(error.value)
    assert not (sources / "out").exists()


def test_a_failed_packing_leaves_no_half(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert main(FULL) == 1
    assert list((sources / "out" / "store").iterdir()) == []
