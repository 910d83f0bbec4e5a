"""Which models may share a worker process with others, whatever file their configuration was read from.

Only models that are data may: what a Python model or a handler does to its process is nobody's to know.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .errors import InvalidConfig
from .model_config import SHARING_BACKENDS, ModelConfig

#: The parameter of a `config.pbtxt`.
GROUP = "worker_group"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Parameters of the torch backends that set what the whole process does.
_OF_THE_PROCESS = (
    "INTRA_OP_THREAD_COUNT",
    "NUM_THREADS",
    "INTER_OP_THREAD_COUNT",
    "NUM_INTEROP_THREADS",
    "ENABLE_JIT_EXECUTOR",
    "ENABLE_JIT_PROFILING",
    "ENABLE_TENSOR_FUSER",
)


def grouped(config: ModelConfig, group: str) -> ModelConfig:
    """The configuration as one of the group's. InvalidConfig where that is no name, or its model cannot share a process."""
    said = f"model '{config.name}' is to be in {GROUP} {group[:80]!r}"
    if not _NAME.fullmatch(group):
        raise InvalidConfig(f"{said}: expected a name of at most 64 letters, digits, '_', '-' and '.'")
    if config.backend not in SHARING_BACKENDS:
        raise InvalidConfig(
            f"{said}, but its backend is '{config.backend}': Python code may change what the process does for others. Models of "
            "ONNX Runtime, TorchScript and torch.export can share one; leave the group out"
        )
    found = [name for name in _OF_THE_PROCESS if config.backend != "onnxruntime" and name in config.parameters]
    if found:
        raise InvalidConfig(f"{said}, and has parameter {found[0]}, which would hold for all of the process: leave one out")
    return replace(config, worker_group=group)
