"""Which device a handler's model runs on."""

from __future__ import annotations

import os

import torch


def choose_device(gpu_id: int | str | None) -> torch.device:
    """CUDA, XPU (where TS_IPEX_GPU_ENABLE is true) or MPS for a worker that was given a GPU, else the CPU."""
    if gpu_id is None:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device(f"cuda:{gpu_id}")
    if os.environ.get("TS_IPEX_GPU_ENABLE", "false").lower() == "true" and torch.xpu.is_available():
        return torch.device(f"xpu:{gpu_id}")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
