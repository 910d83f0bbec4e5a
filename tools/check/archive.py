"""Checks TorchServe archives: each is opened as the server opens it when it is registered, and its files are read, not run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import InvalidArchive, JitneyError
from ...core.model_config import ModelConfig
from ...server.repository.torchserve.archive import MANIFEST
from ...server.repository.torchserve.model_store import ModelStore
from ...server.repository.torchserve.registration import Registration
from ...server.settings.settings import Settings
from ..archive import BUILT_IN_HANDLERS
from .finding import Finding, finding, logged
from .python_source import check_handler, parsed

#: Kinds of `InvalidArchive` that are about what a manifest says.
OF_THE_MANIFEST = ("model", "model_version", "runtime")


def check_archive(path: Path, config_file: Path | None = None) -> list[Finding]:
    """What is found in one archive, packed or a folder; `config_file`: the config.properties that it will be served with."""
    found: list[Finding] = []
    flags = {"model_store": str(path.absolute().parent), "ts_config": config_file, "no_config_snapshots": True}
    environ = {} if config_file is None else dict(os.environ)
    store = ModelStore(Settings.load(flags, environ, "/" if config_file is None else ".", strict=False))
    try:
        with logged(found, path.name):
            url = str(path.absolute()) if path.is_dir() else path.name
            config = store.resolve(Registration(url), at_startup=True)
        found += [_placed(each, path) for each in _contents(config)]
    except InvalidArchive as error:
        place = f"{path}/{MANIFEST}" if error.kind in OF_THE_MANIFEST else str(path)
        found.append(Finding("error", str(error), place, 0, path.name))
    except JitneyError as error:
        found.append(finding("error", str(error), path.name, str(path)))
    finally:
        store.close()
    return [Finding(each.severity, each.text, each.path or str(path), each.line, each.model) for each in found]


def _placed(each: Finding, path: Path) -> Finding:
    """A finding in an unpacked file, named as a file of the archive."""
    return Finding(each.severity, each.text, str(path / each.path), each.line, each.model)


def _contents(config: ModelConfig) -> Iterator[Finding]:
    """What the manifest names and the archive does not have, and what the handler's file is not. Paths are the archive's."""
    folder = Path(config.version_directory)
    if config.handler is None:
        return
    model: Mapping[str, Any] = (config.handler.manifest or {}).get("model") or {}
    for key in ("serializedFile", "modelFile", "requirementsFile"):
        name = str(model.get(key) or "")
        if name and not (folder / name).exists():
            yield Finding("error", f"'{key}' names '{name}', which the archive does not hold", MANIFEST, 0, config.name)
        elif name.endswith(".py"):
            found: list[Finding] = []
            parsed(folder / name, config.name, found)
            yield from (_inside(each, folder) for each in found)
    yield from (_inside(each, folder) for each in _handler(config, folder))


def _handler(config: ModelConfig, folder: Path) -> list[Finding]:
    source, _, function = (config.handler.entry if config.handler else "").partition(":")
    stem = Path(source).name.removesuffix(".py")
    for path in (folder / f"{stem}.py", folder / source):
        if path.suffix == ".py" and path.is_file():
            return check_handler(path, config.name, function)
    if stem in BUILT_IN_HANDLERS:
        return []
    text = f"the handler '{source}' is neither a file of the archive nor a built-in one; a module of that name must be installed"
    return [Finding("warning", text, str(folder / MANIFEST), 0, config.name)]


def _inside(each: Finding, folder: Path) -> Finding:
    path = Path(each.path)
    shown = path.relative_to(folder) if path.is_relative_to(folder) else path
    return Finding(each.severity, each.text, str(shown), each.line, each.model)
