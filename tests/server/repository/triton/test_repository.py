"""Folders, names, inline configurations and uploaded files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig, InvalidRequest, ModelNotFound, SaveFailed
from jitney.server.repository.triton.repository import KEPT_UPLOADS, TritonRepository
from jitney.tests.fakes.repository import PYTHON_MODEL, TENSORS, Folder

INLINE = json.dumps(
    {
        "backend": "python",
        "max_batch_size": 2,
        "input": [{"name": "a", "data_type": "TYPE_INT32", "dims": [1]}],
        "output": [{"name": "b", "data_type": "TYPE_INT32", "dims": [1]}],
    }
)


def test_models_of_several_repositories_are_one_list(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    folder.python("b")
    other.python("a")
    repository = TritonRepository([folder.path, other.path], gpus=[])
    assert repository.names() == ["a", "b"]
    assert repository.read("a")[0].directory == str(other.path / "a")


def test_a_name_in_two_repositories_is_unavailable(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    folder.python("m")
    other.python("m")
    repository = TritonRepository([folder.path, other.path], gpus=[])
    assert repository.names() == ["m"]
    with pytest.raises(InvalidConfig, match=rf"'m' is in more than one repository: {folder.path} and {other.path}"):
        repository.read("m")


def test_files_and_hidden_and_unusable_folders_are_no_models(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.python("m")
    (folder.path / ".git").mkdir()
    (folder.path / "my model").mkdir()
    (folder.path / "README.md").write_text("")
    assert folder.open().names() == ["m"]
    assert "my model: passed over, its name cannot be a model's" in caplog.text


def test_a_repository_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"model repository '.*absent' is not a folder"):
        TritonRepository([tmp_path / "absent"])


@pytest.mark.parametrize("name", ["../m", "..", "a/b", "m\0", "my model", "", "x" * 999])
def test_names_that_could_leave_the_repository_are_refused(folder: Folder, name: str) -> None:
    folder.python("m")
    repository = folder.open()
    with pytest.raises(InvalidRequest, match="invalid name"):
        repository.read(name)
    with pytest.raises(InvalidRequest, match="invalid name"):
        repository.read(name, config_json=INLINE, files={"1/model.py": b""})
    assert repository.fingerprint(name) is None


def test_an_unknown_model_is_not_found(folder: Folder) -> None:
    with pytest.raises(ModelNotFound):
        folder.open().read("absent")
    assert folder.open().fingerprint("absent") is None


def test_a_folder_without_anything_to_go_by_says_what_is_missing(folder: Folder) -> None:
    folder.model("m", None, {"1/weights.bin": ""})
    with pytest.raises(InvalidConfig, match=r"must specify 'platform' or 'backend' for 'm': there is no model\.onnx, "):
        folder.read("m")


def test_a_byte_order_mark_is_no_part_of_the_file(folder: Folder) -> None:
    folder.model(
        "m", None, {"config.pbtxt": b"\xef\xbb\xbfmax_batch_size: 3\n" + TENSORS.encode(), "1/model.py": PYTHON_MODEL}
    )
    assert folder.read("m").max_batch_size == 3


def test_comments_may_be_in_any_encoding(folder: Folder) -> None:
    text = "# Größe\nmax_batch_size: 3  # für später\n" + TENSORS
    folder.model("m", None, {"config.pbtxt": text.encode("latin-1"), "1/model.py": PYTHON_MODEL})
    assert folder.read("m").max_batch_size == 3


def test_text_in_another_encoding_is_refused_with_its_line(folder: Folder) -> None:
    text = '# Größe\nmax_batch_size: 3\nparameters { key: "Größe" value { string_value: "1" } }\n' + TENSORS
    folder.model("m", None, {"config.pbtxt": text.encode("latin-1"), "1/model.py": PYTHON_MODEL})
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:3: byte 0xf6 is not UTF-8; save the file as UTF-8"):
        folder.read("m")


def test_a_file_that_is_not_text_is_refused(folder: Folder) -> None:
    folder.model("m", None, {"config.pbtxt": b"\xff\xfe", "1/model.py": PYTHON_MODEL})
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:1: byte 0xff is not UTF-8"):
        folder.read("m")


def test_another_configuration_can_be_chosen_by_name(folder: Folder) -> None:
    path = folder.python("m")
    (path / "configs").mkdir()
    (path / "configs" / "big.pbtxt").write_text(f'backend: "python" max_batch_size: 64{TENSORS}')
    assert folder.read("m", config_name="big").max_batch_size == 64
    assert folder.read("m", config_name="small").max_batch_size == 0
    with pytest.raises(InvalidConfig, match="invalid name"):
        folder.open(config_name="../big")


# -- the load API ------------------------------------------------------------------------------------------------------------


def test_an_inline_configuration_replaces_the_file(folder: Folder) -> None:
    folder.python("m")
    [model] = folder.open().read("m", config_json=INLINE)
    assert (model.name, model.max_batch_size, model.inputs[0].datatype) == ("m", 2, "INT32")
    assert model.version_directory == str(folder.path / "m" / "1")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "config of the load request for 'm': not valid JSON"),
        ('{"nonsense": 1}', "config of the load request for 'm': unknown field 'nonsense'"),
        ('{"name": "n"}', "unexpected directory name 'm' for model 'n'"),
        ('{"backend": "python", "max_batch_size": -1}', "'max_batch_size' must be non-negative value for m"),
        ('{"backend": "python", "batch_input": [{}]}', "'batch_input' is not supported"),
    ],
)
def test_a_bad_inline_configuration_says_why(folder: Folder, document: str, reason: str) -> None:
    folder.python("m")
    with pytest.raises(InvalidConfig) as caught:
        folder.open(auto_complete=False).read("m", config_json=document)
    assert reason in str(caught.value)


def test_uploaded_files_are_the_models_folder_until_it_is_released(folder: Folder) -> None:
    repository = folder.open()
    [model] = repository.read("new", config_json=INLINE, files={"2/model.py": b"code", "labels.txt": b"a"})
    directory = Path(model.directory)
    assert (model.version, directory.name, folder.path in directory.parents) == ("2", "new", False)
    assert (directory / "2" / "model.py").read_bytes() == b"code" and (directory / "labels.txt").read_bytes() == b"a"
    repository.release("new")()
    assert not directory.exists() and not directory.parent.exists()


def test_uploaded_files_hide_the_folder_on_disk(folder: Folder) -> None:
    folder.python("m")
    [model] = folder.open().read("m", config_json=INLINE, files={"7/model.py": b""})
    assert model.version == "7"


@pytest.mark.parametrize(
    "path", ["../evil.py", "/tmp/evil.py", "1/../../evil.py", "1//x", "", ".", "1/a\0b", "1/" + "x" * 999, "2/model.py/x"]
)
def test_files_may_not_leave_the_models_folder(folder: Folder, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = folder.path.parent / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(InvalidRequest, match=r"invalid path|cannot write"):
        folder.open().read("m", config_json=INLINE, files={"2/model.py": b"", path: b"evil"})
    assert list(temporary.iterdir()) == []
    assert not list(folder.path.parent.rglob("*evil*"))


def test_files_need_a_configuration(folder: Folder) -> None:
    with pytest.raises(InvalidRequest, match="files need a 'config' parameter"):
        folder.open().read("m", files={"1/model.py": b""})


def test_reloading_keeps_what_may_still_serve_and_no_more(folder: Folder) -> None:
    repository = folder.open()
    directories = []
    for version in range(1, KEPT_UPLOADS + 4):
        [model] = repository.read("m", config_json=INLINE, files={f"{version}/model.py": b""})
        directories.append(Path(model.directory))
        with pytest.raises(InvalidConfig):
            repository.read("m", config_json="{", files={"1/model.py": b""})
    assert [directory.exists() for directory in directories] == [False] * 3 + [True] * KEPT_UPLOADS
    repository.close()
    assert not any(directory.exists() for directory in directories)


# -- fingerprints ------------------------------------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_the_models_files(folder: Folder) -> None:
    path = folder.python("m")
    repository = folder.open()
    seen = [repository.fingerprint("m")]
    assert repository.fingerprint("m") == seen[0] and hash(seen[0]) is not None
    (path / "config.pbtxt").write_text("changed")
    seen.append(repository.fingerprint("m"))
    (path / "2").mkdir()
    seen.append(repository.fingerprint("m"))
    os.utime(path / "1" / "model.py", ns=(1, 1))
    seen.append(repository.fingerprint("m"))
    (path / "1" / "model.py").unlink()
    seen.append(repository.fingerprint("m"))
    assert len(set(seen)) == 5


def test_a_fingerprint_follows_links_once_and_does_not_see_what_python_writes(folder: Folder, tmp_path: Path) -> None:
    path = folder.python("m")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w").write_bytes(b"1")
    (path / "2").symlink_to(tmp_path / "weights")
    (path / "loop").symlink_to(path)
    (path / "nowhere").symlink_to(path / "absent")
    repository = folder.open()
    before = repository.fingerprint("m")
    (path / "1" / "__pycache__").mkdir()
    (path / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
    assert repository.fingerprint("m") == before
    (tmp_path / "weights" / "w").write_bytes(b"12")
    assert repository.fingerprint("m") != before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_uploads_that_cannot_be_kept_are_not_the_client_s_fault(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def full(path: Path, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SaveFailed, match=rf"'m': its files cannot be kept in the temporary folder: .*{os.strerror(number)}"):
        folder.open().read("m", config_json=INLINE, files={"1/model.py": b""})
    assert not list(tmp_path.glob("jitney-model-*"))


@pytest.mark.parametrize("files", [{"1/a": b"", "1/a/b": b""}, {"1/a/b": b"", "1/a": b""}, {"1/" + "x" * 300: b""}])
def test_uploads_whose_names_contradict_each_other_are(folder: Folder, files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidRequest, match="cannot write its files"):
        folder.open().read("m", config_json=INLINE, files=files)
