"""A torch that has begun to use a GPU whose context is lost, as far as `cuda_context` asks: to be put before a model's source.

`lose()` is what a device-side assert does: from then on CUDA says so whenever it is asked.
"""

from __future__ import annotations

SOURCE = """
import torch
_lost = []

def _synchronize(device=None):
    if _lost:
        error = torch.AcceleratorError("CUDA error: device-side assert triggered\\nCompile with TORCH_USE_CUDA_DSA")
        error.error_code = 710
        raise error

torch.cuda.is_initialized = lambda: True
torch.cuda.synchronize = _synchronize

def lose():
    _lost.append(True)
"""
