"""From a model's configuration to the backend that runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .base import Backend

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

#: backend name -> module of this package and class in it. Modules are imported when needed: a worker pays for one framework.
BACKENDS: dict[str, tuple[str, str]] = {
    "eager": ("eager", "EagerBackend"),
    "torchscript": ("torchscript", "TorchScriptBackend"),
    "exported": ("exported", "ExportedBackend"),
    "onnxruntime": ("onnx", "OnnxBackend"),
    "python": ("python", "PythonBackend"),
    "handler": ("handler", "HandlerBackend"),
}


def create(config: ModelConfig) -> Backend:
    """A backend for `config`, not loaded yet. ValueError for a backend that has none (ensembles run in the server)."""
    if config.backend not in BACKENDS:
        known = ", ".join(sorted(BACKENDS))
        raise ValueError(f"model '{config.name}' has backend '{config.backend}'; expected one of {known}")
    module, name = BACKENDS[config.backend]
    backend: Backend = getattr(importlib.import_module(f".{module}", __package__), name)()
    if config.sequence is not None and config.backend != "handler":  # which keeps its sequences' states itself
        from .sequence import SequenceBackend

        return SequenceBackend(backend)
    return backend
