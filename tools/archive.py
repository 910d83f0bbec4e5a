"""`jitney archive`: packs a model into a TorchServe archive, with torch-model-archiver's flags, formats and manifest.

    jitney archive --model-name resnet --version 1.0 --serialized-file net.pt --handler image_classifier \\
                   --extra-files index_to_name.json --export-path model_store

Everything lands flat at the archive's top under its own file name; of a folder in --extra-files the contents do. Two files for
one name are refused instead of the last one winning. The archive appears whole or not at all.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import io
import json
import logging
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MANIFEST = "MAR-INF/MANIFEST.json"
#: The version of torch-model-archiver whose manifests these are.
ARCHIVER_VERSION = "0.12.0"
BUILT_IN_HANDLERS = (
    "base_handler",
    "text_classifier",
    "image_classifier",
    "object_detector",
    "image_segmenter",
    "dali_image_classifier",
    "vllm_handler",
    "trt_llm_handler",
)
RUNTIMES = ("python", "python3", "LSP")
FORMATS: dict[str, str] = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
#: Folders in a folder of --extra-files that are not packed, beside hidden ones.
LEFT_OUT = ("__MACOSX", "__pycache__")

log = logging.getLogger(__name__)

Format = Literal["default", "zip-store", "tgz", "no-archive"]
Content = Mapping[str, "Path | bytes"]


class ArchiverError(ValueError):
    """What was asked for cannot be packed; the text names the flag or file."""


@dataclass(frozen=True)
class ModelArchiverConfig:
    """torch-model-archiver's arguments. `extra_files`: a comma list of files, folders and wildcards; `export_path` is made
    where it is missing."""

    model_name: str
    version: str
    handler: str
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    runtime: str = "python"
    export_path: str = "."
    archive_format: Format = "default"
    force: bool = False
    requirements_file: str | None = None
    config_file: str | None = None


class ModelArchiver:
    """torch-model-archiver's Python interface."""

    @staticmethod
    def generate_model_archive(config: ModelArchiverConfig) -> Path:
        return generate_model_archive(config)


def generate_model_archive(config: ModelArchiverConfig, created: datetime.datetime | None = None) -> Path:
    """Packs the archive and returns its path. Raises ArchiverError, with nothing written. `created`: now, if not given."""
    _check(config)
    target = Path(config.export_path) / f"{config.model_name}{FORMATS[config.archive_format]}"
    _check_target(target, config.force)
    files: dict[str, Path | bytes] = {**_files(config, target)}
    now = created or datetime.datetime.now()
    files[MANIFEST] = json.dumps(manifest(config, now), indent=2).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{config.model_name}.", dir=target.parent) as folder:
        packed = Path(folder) / target.name
        _pack(config, packed, files)
        if target.is_dir():
            shutil.rmtree(target)
        packed.replace(target)
    return target


def manifest(config: ModelArchiverConfig, created: datetime.datetime) -> dict[str, Any]:
    """The manifest's document; files are named without their folders, and what is not there is left out."""
    model = {
        "modelName": config.model_name,
        "serializedFile": _base(config.serialized_file),
        "handler": _base(config.handler),
        "modelFile": _base(config.model_file),
        "modelVersion": config.version,
        "requirementsFile": _base(config.requirements_file),
        "configFile": _base(config.config_file),
    }
    return {
        "createdOn": f"{created:%d/%m/%Y %H:%M:%S}",
        "runtime": config.runtime,
        "model": {key: value for key, value in model.items() if value},
        "archiverVersion": ARCHIVER_VERSION,
    }


def _base(path: str | None) -> str | None:
    return path and path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _check(config: ModelArchiverConfig) -> None:
    if not NAME.fullmatch(config.model_name):
        raise ArchiverError(
            f"--model-name is {config.model_name!r}, expected letters, digits, '_', '.' and '-', the first a letter or digit"
        )
    if not config.version.strip() or not config.version.isprintable():
        raise ArchiverError(f"--version is {config.version!r}, expected printable text")
    if config.runtime not in RUNTIMES:
        raise ArchiverError(f"--runtime is {config.runtime!r}, expected one of {', '.join(RUNTIMES)}")
    if config.archive_format not in FORMATS:
        raise ArchiverError(f"--archive-format is {config.archive_format!r}, expected one of {', '.join(FORMATS)}")


def _check_target(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise ArchiverError(f"{target} already exists; use -f/--force to overwrite it")
    if target.is_dir() and not (target / MANIFEST).is_file():
        raise ArchiverError(f"{target} is a folder and no model (it has no {MANIFEST}); it is not overwritten")


# -- what goes in ------------------------------------------------------------------------------------------------------------


def _files(config: ModelArchiverConfig, target: Path) -> dict[str, Path]:
    """Archive name -> file, of everything that the arguments name."""
    found: dict[str, Path] = {}
    named = {
        "--model-file": config.model_file,
        "--serialized-file": config.serialized_file,
        "--handler": handler_file(config.handler),
        "--requirements-file": config.requirements_file,
        "--config-file": config.config_file,
    }
    for flag, path in named.items():
        if path:
            _add(found, _existing(flag, Path(path)), Path(path).name)
    for pattern in (config.extra_files or "").split(","):
        if pattern.strip():
            _add_extra(found, pattern.strip(), target)
    return found


def handler_file(handler: str) -> str | None:
    """The file that a handler of the form `file[.py][:entry]` names, None for a built-in one. ArchiverError for others."""
    named, _, entry = handler.partition(":")
    path = named if named.endswith(".py") else f"{named}.py"
    if handler in BUILT_IN_HANDLERS:
        return None
    if path != named and not Path(path).is_file():
        built_in = ", ".join(BUILT_IN_HANDLERS)
        raise ArchiverError(f"--handler is {handler!r}, expected a file FILE.py[:FUNCTION] or one of {built_in}")
    if entry and not entry.isidentifier():
        raise ArchiverError(f"--handler is {handler!r}, expected FILE.py or FILE.py:FUNCTION")
    return path


def _existing(flag: str, path: Path) -> Path:
    if not path.is_file():
        raise ArchiverError(f"{flag}: there is no file '{path}'")
    return path


def _add_extra(found: dict[str, Path], pattern: str, target: Path) -> None:
    """Adds a file, what a wildcard finds, or a folder's contents. The archive itself, made before, is left out.

    A wildcard that finds nothing is warned of, as torch-model-archiver does; any other name has to be there.
    """
    matches = [Path(pattern)] if Path(pattern).exists() else [Path(match) for match in sorted(glob.glob(pattern))]  # noqa: PTH207
    if not matches and not any(sign in pattern for sign in "*?["):
        raise ArchiverError(f"--extra-files: there is no '{pattern}'")
    if not matches:
        log.warning("--extra-files: the wildcard '%s' finds nothing", pattern)
    for match in matches:
        for path in sorted(_inner(match)) if match.is_dir() else [match]:
            mine = path == target or target in path.parents
            if path.is_file() and not mine:
                _add(found, path, path.relative_to(match).as_posix() if match.is_dir() else path.name)


def _inner(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files in a folder and in those below, links followed, without what torch-model-archiver leaves out: folders that are
    hidden, such as .git, and LEFT_OUT. A link to a folder that it lies in is not followed."""
    above |= {folder.resolve()}
    for path in folder.iterdir():
        if not path.is_dir():
            yield path
        elif not path.name.startswith(".") and path.name not in LEFT_OUT and path.resolve() not in above:
            yield from _inner(path, above)


def _add(found: dict[str, Path], path: Path, name: str) -> None:
    other = next((taken for taken in found if taken.casefold() == name.casefold()), None)
    if other is not None and not found[other].samefile(path):
        raise ArchiverError(f"'{found[other]}' and '{path}' both become '{name}' in the archive")
    if name.casefold().startswith("mar-inf/"):
        raise ArchiverError(f"'{path}' would become '{name}': MAR-INF is the archiver's own folder")
    found[other or name] = path


# -- how it is packed --------------------------------------------------------------------------------------------------------


def _pack(config: ModelArchiverConfig, target: Path, files: Content) -> None:
    if config.archive_format == "no-archive":
        _pack_folder(target, files)
    elif config.archive_format == "tgz":
        _pack_tar(target, files, config.model_name)
    else:
        _pack_zip(target, files, zipfile.ZIP_STORED if config.archive_format == "zip-store" else zipfile.ZIP_DEFLATED)


def _pack_zip(target: Path, files: Content, compression: int) -> None:
    with zipfile.ZipFile(target, "w", compression, strict_timestamps=False) as archive:
        for name, content in files.items():
            if isinstance(content, bytes):
                archive.writestr(name, content)
            else:
                archive.write(content, name)


def _pack_tar(target: Path, files: Content, top: str) -> None:
    with tarfile.open(target, "w:gz", dereference=True) as archive:
        for name, content in files.items():
            if isinstance(content, bytes):
                info = tarfile.TarInfo(f"{top}/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.add(content, f"{top}/{name}", recursive=False)


def _pack_folder(target: Path, files: Content) -> None:
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            shutil.copyfile(content, path)


# -- the command -------------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="jitney archive", description="Packs a model into an archive that TorchServe and jitney serve."
    )
    add = made.add_argument
    add("--model-name", required=True, help="name of the archive and of the model")
    add("-v", "--version", required=True, help="version of the model")
    add("--handler", required=True, help=f"FILE.py[:FUNCTION], or one of {', '.join(BUILT_IN_HANDLERS)}")
    add("--serialized-file", help="weights (.pt, .pth, .onnx) or a TorchScript model")
    add("--model-file", help="source of the model's class, for weights that need it")
    add("--extra-files", help="comma-separated files, folders (their contents) and wildcards")
    add("--runtime", default="python", choices=RUNTIMES)
    add("--export-path", default=".", help="folder to put the archive in (default: here)")
    add(
        "--archive-format",
        default="default",
        choices=list(FORMATS),
        help=".mar, .mar without compression, .tar.gz, or a folder",
    )
    add("-f", "--force", action="store_true", help="overwrite an archive of this name")
    add("-r", "--requirements-file", help="packages the model needs")
    add("-c", "--config-file", help="model-config.yaml")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 with the reason on stderr."""
    arguments = parser().parse_args(argv)
    try:
        target = generate_model_archive(ModelArchiverConfig(**vars(arguments)))
    except (ArchiverError, OSError) as error:
        print(f"jitney archive: {error}", file=sys.stderr)
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
