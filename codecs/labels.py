"""Class names for classification answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import InvalidConfig
from ..core.model_config import ModelConfig

FILE = "index_to_name.json"


class Labels:
    """Names of classes by index; a class without a name is called by its index, as in TorchServe."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names

    def __getitem__(self, index: int) -> str:
        return self._names.get(index, str(index))

    @classmethod
    def of(cls, config: ModelConfig) -> Labels:
        """From `index_to_name.json` in the version's or the model's folder, else the output's labels, else none."""
        for folder in (config.version_directory, config.directory):
            path = Path(folder) / FILE
            if folder and path.is_file():
                return cls(read_index_to_name(path))
        labels = config.outputs[0].labels if config.outputs else ()
        return cls(dict(enumerate(labels)))


def read_index_to_name(path: Path) -> dict[int, str]:
    """Reads one of TorchServe's three forms: {"0": "cat"}, {"0": ["n02123045", "cat"]}, {"object_type_names": ["cat"]}.

    The last element of a list is the name. Raises `InvalidConfig` naming the file and the entry.
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidConfig(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidConfig(f"{path}: expected an object from class index to name, found {type(document).__name__}")
    if isinstance(names := document.get("object_type_names"), list):
        return {index: _name(path, str(index), name) for index, name in enumerate(names)}
    return {_index(path, key): _name(path, key, value) for key, value in document.items()}


def _index(path: Path, key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise InvalidConfig(f"{path}: '{key}' is not a class index; expected whole numbers as keys") from None


def _name(path: Path, key: str, value: Any) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str | int | float):
        raise InvalidConfig(f"{path}: the name of class {key} is {value!r}; expected text or a list that ends with it")
    return str(value)
