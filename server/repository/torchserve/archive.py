"""TorchServe's model archives: `.mar` (zip), `.tar.gz`, and folders of the same layout, which are used in place.

Everything lies flat at the top, with `MAR-INF/MANIFEST.json` beside it:

    {"runtime": "python", "model": {"modelName", "modelVersion", "handler", "serializedFile"?, "modelFile"?,
     "requirementsFile"?, "configFile"?}, "createdOn", "archiverVersion"}

Other keys are kept and mean nothing to the server. A folder or archive without a manifest is version 1.0 with the server's
default handler (SageMaker's habit); its name must then come with the registration.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....core.errors import InvalidArchive
from ....core.names import relative_path
from .archive_entries import DEFAULT_LIMITS, Limits
from .unpack import Progress, unpack_tar_gz, unpack_zip

MANIFEST = "MAR-INF/MANIFEST.json"
RUNTIMES = ("python", "python3", "LSP")
#: TorchServe takes the names of its own constants too.
_CONSTANTS = {"PYTHON": "python", "PYTHON3": "python3"}
MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What the server reads from a manifest; "" where it says nothing. File names are relative to the archive's top."""

    model_name: str = ""
    model_version: str = "1.0"
    runtime: str = "python"
    handler: str = ""
    serialized_file: str = ""
    model_file: str = ""
    requirements_file: str = ""
    config_file: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Archive:
    """An opened archive. `directory` holds its files; `unpacked` tells that we made it and may remove it."""

    directory: Path
    manifest: Manifest
    has_manifest: bool
    unpacked: bool

    def file(self, name: str) -> Path:
        return self.directory / name


def open_archive(path: Path, into: Path, limits: Limits = DEFAULT_LIMITS, progress: Progress | None = None) -> Archive:
    """Opens the archive or folder at `path`; archives are unpacked to `into`, which must not exist.

    Raises InvalidArchive; then `into` does not exist either.
    """
    if path.is_dir():
        directory = _only_subdirectory(path)
        return _opened(directory, unpacked=False)
    if _is_gzip(path):
        unpack_tar_gz(path, into, limits, progress)
    elif zipfile.is_zipfile(path):
        unpack_zip(path, into, limits, progress)
    else:
        raise InvalidArchive(f"{path.name}: neither a zip archive nor a gzipped tar archive", "not_archive")
    try:
        return _opened(into, unpacked=True)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def peek(path: Path) -> Manifest:
    """The manifest of an archive or folder that is not unpacked for it; an empty one where there is none, and of gzipped tar
    archives, which would have to be read whole. Raises InvalidArchive, OSError."""
    if path.is_dir():
        return open_archive(path, path).manifest
    if not zipfile.is_zipfile(path):
        return Manifest()
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MANIFEST) as file:
            return parse_manifest(file.read(MAX_JSON_BYTES))
    except KeyError:
        return Manifest()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise InvalidArchive(f"{path.name}: {MANIFEST} cannot be read: {error}") from None


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened(directory: Path, unpacked: bool) -> Archive:
    path = directory / MANIFEST
    if not path.is_file():
        return Archive(directory, Manifest(), has_manifest=False, unpacked=unpacked)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InvalidArchive(f"{MANIFEST}: larger than {MAX_JSON_BYTES} bytes")
    return Archive(directory, parse_manifest(path.read_bytes()), has_manifest=True, unpacked=unpacked)


def _only_subdirectory(folder: Path) -> Path:
    """A folder that holds one folder and nothing else stands for that one (SageMaker); hidden files do not count."""
    visible = [item for item in folder.iterdir() if not item.name.startswith(".")]
    if len(visible) == 1 and visible[0].is_dir() and visible[0].name != "MAR-INF":
        return visible[0]
    return folder


def parse_manifest(raw: bytes) -> Manifest:
    """Reads a manifest; what it leaves out is as TorchServe takes it: version 1.0, runtime python, a name from elsewhere.

    InvalidArchive with kind "model", "model_version" or "runtime" where that cannot be read, "file" for a file outside of
    the archive.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"{MANIFEST}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArchive(f"{MANIFEST}: expected a JSON object, found {type(document).__name__}")
    model = document.get("model", {})
    if not isinstance(model, dict):
        raise InvalidArchive(f"{MANIFEST}: has no section 'model'", "model", "model")
    version = Manifest.model_version if model.get("modelVersion") is None else _text(model, "modelVersion")
    runtime = _text(document, "runtime") if "runtime" in document else Manifest.runtime
    runtime = _CONSTANTS.get(runtime, runtime)
    if not version:
        raise InvalidArchive(f"{MANIFEST}: 'modelVersion' is not defined", "model_version", "modelVersion")
    if runtime not in RUNTIMES:
        expected = ", ".join(RUNTIMES)
        raise InvalidArchive(f"{MANIFEST}: 'runtime' is {runtime!r}, expected one of {expected}", "runtime", "runtime")
    return Manifest(
        model_name=_text(model, "modelName"),
        model_version=version,
        runtime=runtime,
        handler=_text(model, "handler"),
        serialized_file=_file(model, "serializedFile"),
        model_file=_file(model, "modelFile"),
        requirements_file=_file(model, "requirementsFile"),
        config_file=_file(model, "configFile"),
        document=document,
    )


def _text(section: Mapping[str, Any], key: str) -> str:
    """A string, "" where it is absent or null; numbers, true and false become text, as Gson reads them."""
    value = section.get(key)
    if value is None:
        return ""
    if isinstance(value, bool):
        value = json.dumps(value)
    if isinstance(value, dict | list):
        raise InvalidArchive(f"{MANIFEST}: '{key}' is {json.dumps(value)[:100]}, expected a string", entry=key)
    text = str(value)
    if any(ord(char) < 32 or ord(char) == 127 for char in text) or len(text) > 1024:
        raise InvalidArchive(f"{MANIFEST}: '{key}' has control characters or more than 1024 characters", entry=key)
    return text


def _file(section: Mapping[str, Any], key: str) -> str:
    name = _text(section, key)
    if name:
        try:
            relative_path(name, InvalidArchive)
        except InvalidArchive as error:
            raise InvalidArchive(f"{MANIFEST}: '{key}': {error}", "file", key) from None
    return name
