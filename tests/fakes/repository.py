"""A model repository in a temporary folder, written file by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jitney.core.model_config import ModelConfig
from jitney.server.repository.triton.repository import TritonRepository

TENSORS = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
PYTHON_MODEL = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


class Folder:
    """A repository being written: `model` adds one, `read` reads it as the server does, on a machine with `gpus`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gpus: list[int] = []
        self.opened: list[TritonRepository] = []

    def model(self, name: str, config: str | None, files: dict[str, str | bytes] | None = None) -> Path:
        for file, content in (files if files is not None else {"1/model.py": PYTHON_MODEL}).items():
            target = self.path / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        if config is not None:
            (self.path / name).mkdir(exist_ok=True)
            (self.path / name / "config.pbtxt").write_text(config)
        return self.path / name

    def python(self, name: str, extra: str = "") -> Path:
        """A Python model with one input and one output, whose configuration goes on from line 4."""
        return self.model(name, f'backend: "python"{TENSORS}{extra}')

    def open(self, **options: Any) -> TritonRepository:
        repository = TritonRepository([self.path], gpus=self.gpus, **options)
        self.opened.append(repository)
        return repository

    def read(self, name: str, **options: Any) -> ModelConfig:
        """The highest version served."""
        return self.open(**options).read(name)[-1]
