"""Whether a framework, as installed here, can use a GPU: read from its files, because the server imports no framework.

A build for the CPU on a machine with a GPU is common (`pip install torch` from the CPU index); KIND_AUTO must not place such a
model on the GPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path


@cache
def framework_uses_gpus(backend: str) -> bool:
    """Whether the framework that a backend needs was built for CUDA. Python models decide for themselves: true."""
    if backend in ("eager", "torchscript", "exported"):
        return _torch_has_cuda()
    if backend == "onnxruntime":
        return any(True for _ in importlib.metadata.distributions(name="onnxruntime-gpu"))
    return True


def _torch_has_cuda() -> bool:
    """`torch/version.py` has a line `cuda: Optional[str] = '12.8'`, or `= None` in a build for the CPU."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    try:
        text = Path(found.origin).with_name("version.py").read_text()
    except OSError:
        return False
    return re.search(r"^cuda\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None
