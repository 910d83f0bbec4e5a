"""Folders that are not where a repository has them: what they look like, and the sentence that says where they belong.

<repository>/<model>/<version>/model.onnx …
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ....core.errors import InvalidConfig
from ....core.model_config import ModelConfig

CONFIG_FILE = "config.pbtxt"
#: Names that people give a configuration by mistake, or because they took it from elsewhere.
_LIKE_CONFIG = re.compile(r"config\.(pb|pbtx|pbtext|pbtxt|prototxt|proto|txt|text)(\.\w+)?", re.IGNORECASE)
#: How many levels below a folder are searched for models.
_LEVELS = 3
#: Ends of the names of a version's files, of this server's backends and of Triton's others.
_MODEL_SUFFIXES = (".onnx", ".pt", ".pth", ".pt2", ".py", ".plan", ".savedmodel", ".graphdef", ".xml", ".safetensors")


def is_model_file(name: str) -> bool:
    """Whether a file of this name may be what a version's folder holds."""
    return name.endswith(_MODEL_SUFFIXES)


def is_version(directory: Path) -> bool:
    """Whether a folder looks like a version's: it holds `model.onnx`, `model.py` or the like."""
    return any(path.stem == "model" and is_model_file(path.name) for path in entries(directory))


def is_model(directory: Path) -> bool:
    """Whether a folder looks like a model's: it holds a configuration, or a numbered folder with a model's file."""
    found = entries(directory)
    configured = any(path.name == CONFIG_FILE and path.is_file() for path in found)
    return configured or any(is_model_file(each.name) for path in _numbered(found) for each in entries(path))


def _numbered(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.name.isdecimal() and path.is_dir()]


def entries(directory: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden files; nothing where it cannot be read."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def listing(directory: Path) -> str:
    """What a folder holds, for people: "which is empty", "which holds a, b/ and 3 more"."""
    names = [path.name + "/" * path.is_dir() for path in entries(directory)]
    if not names:
        return "which is empty"
    shown, more = names[:5], len(names) - 5
    return f"which holds {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"


def check_level(repository: Path) -> None:
    """InvalidConfig where a folder is not a repository but a model's or a version's, one or two levels below one."""
    if any(is_model(path) or _numbered(entries(path)) for path in entries(repository) if path.is_dir()):
        return
    if is_model(repository):
        kind, right = "model", repository.parent
    elif repository.name.isdecimal() and is_version(repository):
        kind, right = "version", repository.parent.parent
    else:
        return
    raise InvalidConfig(
        f"model repository '{repository}' is the folder of a {kind}, {listing(repository)}, and not a folder of models: start "
        f"with its parent, --model-repository {right}"
    )


def loose_ends(repository: Path) -> list[str]:
    """Sentences about a repository that holds nothing, and about model files that lie where models' folders should be."""
    found = entries(repository)
    loose = [path for path in found if path.is_file() and is_model_file(path.name)]
    if not loose and not any(path.is_dir() for path in found):
        where = f"{repository}/MODEL/1/model.onnx (or model.pt, model.py)"
        return [f"model repository '{repository}' holds no models; a model is a folder with versions: {where}"]
    return [
        f"{path}: passed over; a model is a folder: move the file to {repository}/{path.stem}/1/model{path.suffix}"
        for path in loose
    ]


def check_file(config: ModelConfig) -> None:
    """InvalidConfig, in Triton's words, where a version's folder does not hold the model's file."""
    path = Path(config.version_directory) / config.filename
    if config.filename and not path.exists():
        raise InvalidConfig(f"unable to find '{path}' for model '{config.name}' in a folder {listing(path.parent)}")


def misplaced_configs(model: Path) -> list[str]:
    """Sentences about files that were meant to be the model's `config.pbtxt`, and are not read where they are."""
    right = model / CONFIG_FILE
    found = [path for path in entries(model) if path.name != CONFIG_FILE and _LIKE_CONFIG.fullmatch(path.name)]
    if right.is_file():
        found = []  # what lies beside it is a copy
    found += [path / CONFIG_FILE for path in _numbered(entries(model)) if (path / CONFIG_FILE).is_file()]
    return [f"{path} is not read: a model's configuration is {right}" for path in found if path.is_file()]


def _holds_models(directory: Path, levels: int = _LEVELS) -> Path | None:
    """The folder that holds models: this one or the first below it; None where there is none within `levels`."""
    folders = [path for path in entries(directory) if path.is_dir() and not path.is_symlink()]
    if any(map(is_model, folders)):
        return directory
    below = (_holds_models(path, levels - 1) for path in folders) if levels > 1 else ()
    return next((path for path in below if path is not None), None)


def missing_version(model: Path) -> str:
    """What a model's folder without any version holds instead, and what to do about it."""
    found = entries(model)
    folders = [path for path in found if path.is_dir()]
    text = f"{model} has no numbered version folder; expected {model}/1/ with the model's file in it"
    if files := [path.name for path in found if path.is_file() and is_model_file(path.name)]:
        return f"{text}: move {', '.join(files)} there"
    right = _holds_models(model)
    if right is not None:
        inner = [path.name for path in entries(right) if path.is_dir() and is_model(path)]
        return f"{text}, found folders of models ({', '.join(inner[:5])}): start with --model-repository {right}"
    if odd := [path.name for path in folders if any(is_model_file(each.name) for each in entries(path))]:
        return f"{text}, found {odd[0]}/: rename it to a number from 1 on, without leading zeros"
    return f"{text}; an ensemble needs the folder too, it stays empty"
