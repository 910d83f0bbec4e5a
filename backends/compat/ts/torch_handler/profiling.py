"""torch's profiler around a handler's steps, switched on by ENABLE_TORCH_PROFILER."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, tensorboard_trace_handler

logger = logging.getLogger(__name__)

Run = Callable[[str, Callable[[Any], Any], Any], Any]


def wanted() -> bool:
    return bool(os.environ.get("ENABLE_TORCH_PROFILER"))


def profiled(work: Callable[[Run], Any], model_name: str, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Runs `work` with a recorder of named steps; traces go to <temporary folder>/pytorch_profiler/<model>."""
    folder = Path(tempfile.gettempdir()) / "pytorch_profiler" / model_name
    settings = {
        "activities": [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])],
        "record_shapes": True,
        "on_trace_ready": tensorboard_trace_handler(str(folder)),
        **arguments,
    }
    if "on_trace_ready" not in arguments:
        logger.info("the profiler's trace goes to %s", folder)
    with profile(**settings) as profiler:

        def run(name: str, step: Callable[[Any], Any], value: Any) -> Any:
            with record_function(name):
                return step(value)

        output = work(run)
    return output, profiler
