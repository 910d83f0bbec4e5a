"""Checks model repositories: every model is read as the server reads it, but no model's file is opened."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ... import codecs
from ...backends.extras import EXTRA_OF
from ...backends.options import padded_sizes
from ...backends.parameters import GROUPS, readers, unread
from ...codecs.own import is_own
from ...core.errors import JitneyError
from ...core.model_config import ModelConfig
from ...core.names import inside
from ...server.repository.triton.ensembles import connect, dependencies
from ...server.repository.triton.layout import CONFIG_FILE, check_file
from ...server.repository.triton.pbtxt import Source
from ...server.repository.triton.repository import TritonRepository
from ...server.repository.triton.strays import strays
from .finding import Finding, finding, logged
from .python_source import check_codec, check_eager_model, check_python_model

#: The package that a backend runs with.
PACKAGE_OF = {"onnxruntime": "onnxruntime", "eager": "torch", "torchscript": "torch", "exported": "torch"}


def check_repositories(folders: Sequence[Path], only: Sequence[str] = (), backends: Path | None = None) -> list[Finding]:
    """What is found in these folders, of all models or of those named; `backends` is the folder of Python-based backends.

    InvalidConfig where one is no repository.
    """
    found: list[Finding] = []
    with logged(found):
        repository = TritonRepository(folders, auto_complete=False, open_ended=True, backend_directory=backends)
        names = repository.names()
    if not only:
        found += [finding("warning", sentence) for sentence in repository.loose_ends()]
        found += [_stray(path) for folder in folders for path in strays(folder.absolute())]
    models: dict[str, list[ModelConfig]] = {}
    for name in names:
        if only and name not in only:
            continue
        with logged(found, name):
            try:
                models[name] = repository.read(name)
            except JitneyError as error:
                found.append(finding("error", str(error), name, _place(folders, name)))
    for versions in models.values():
        found += [each for config in versions for each in check_model(config)]
        found += check_steps(versions[-1], models, names, only)
    return found


def _stray(path: Path) -> Finding:
    return Finding("warning", "an archive is not served from a model repository: jitney serve its folder", str(path))


def _place(folders: Sequence[Path], name: str) -> str:
    return str(next((folder / name for folder in folders if (folder / name).is_dir()), folders[0]).absolute())


def check_model(config: ModelConfig) -> list[Finding]:
    """What can be said of one version beside its configuration."""
    return [*_files(config), *_parameters(config), *_package(config)]


def _files(config: ModelConfig) -> Iterator[Finding]:
    try:
        check_file(config)
    except JitneyError as error:
        yield finding("error", str(error), config.name, config.version_directory)
        return
    path = Path(config.version_directory) / config.filename
    if config.backend == "python":
        yield from check_python_model(path, config.name)
    elif config.backend == "eager":
        yield from check_eager_model(path, config.name, config.parameters.get("model_class", ""))
    if config.backend not in ("ensemble", "python") and not (config.inputs and config.outputs):
        text = (
            "leaves out inputs or outputs: they are read from the model's file when it is loaded, here they are not (--load)"
        )
        yield Finding("note", text, f"{config.directory}/{CONFIG_FILE}", 0, config.name)


def _parameters(config: ModelConfig) -> Iterator[Finding]:
    place = f"{config.directory}/{CONFIG_FILE}"
    for key in unread(config) if config.backend in GROUPS["all"] else ():  # a Python model's code may read any key
        text = f"parameter {key} has no effect with backend '{config.backend}'; it is read by {', '.join(readers()[key])}"
        where = _source(place).at("parameters", f'"{key}"')
        yield finding("warning", f"{where}: {text}", config.name)
    try:
        padded_sizes(config)
        if is_own(config.codec):
            yield from check_codec(_codec_file(config), config.name)
        elif config.inputs and config.outputs:
            codecs.create(config)
    except (JitneyError, ValueError) as error:
        yield finding("error", str(error), config.name, place)


def _source(place: str) -> Source:
    path = Path(place)
    return Source(place, path.read_text() if path.is_file() else "")


def _codec_file(config: ModelConfig) -> Path:
    """Where a codec's file is looked for: the version's folder, then the model's."""
    version = Path(config.version_directory)
    here = inside(version, config.codec)
    return here if here.is_file() else inside(Path(config.directory), config.codec)


def _package(config: ModelConfig) -> Iterator[Finding]:
    package = PACKAGE_OF.get(config.backend, "")
    if package and importlib.util.find_spec(package) is None:
        text = f"backend '{config.backend}' needs the package {package}: pip install 'jitney[{EXTRA_OF[package]}]'"
        yield Finding("error", text, config.directory, 0, config.name)


def check_steps(
    ensemble: ModelConfig, models: Mapping[str, Sequence[ModelConfig]], names: Sequence[str], only: Sequence[str]
) -> list[Finding]:
    """Whether an ensemble's steps name models that there are, and whose tensors fit, as far as these are known."""
    place, steps = f"{ensemble.directory}/{CONFIG_FILE}", dependencies(ensemble)
    missing = [name for name, _ in steps if name not in names]
    if missing:
        text = f"ensemble '{ensemble.name}' has a step of model '{missing[0]}', which is in no repository"
        return [Finding("error", text, place, 0, ensemble.name)]
    known = [models[name][-1] for name, _ in steps if models.get(name)]
    if only or len(known) < len(steps) or not all(model.inputs and model.outputs for model in known) or not steps:
        return []
    try:
        connect(ensemble, known)
    except JitneyError as error:
        return [finding("error", str(error), ensemble.name, place)]
    return []
