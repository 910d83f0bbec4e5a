"""`MockContext`: what a handler needs of a context to initialize and handle, without a server."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import torch

from ....metrics.metrics_store import MetricsStore
from ....utils.util import get_yaml_config

__all__ = ["MetricsStore", "MockContext", "get_yaml_config"]


class MockContext:
    """Of an unpacked archive in `model_dir`; `gpu_id` counts where there is a GPU. Metrics stay in `metrics.store`."""

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        files = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest: dict[str, Any] = {"model": {key: name for key, name in files.items() if name}}
        self.system_properties: dict[str, Any] = {"model_dir": model_dir}
        if gpu_id and torch.cuda.is_available():
            self.system_properties["gpu_id"] = gpu_id
        self.explain = False
        self.metrics = MetricsStore(uuid.uuid4(), model_name)
        self.model_yaml_config: dict[str, Any] = {}
        if model_yaml_config_file:
            self.model_yaml_config = get_yaml_config(str(Path(model_dir) / model_yaml_config_file))

    def get_request_header(self, idx: int, exp: str) -> bool:
        """Whether `explain` is set; False for the first request, as in TorchServe's."""
        return bool(idx and exp and self.explain)
