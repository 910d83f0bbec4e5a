"""`DenseNetHandler`: tensors in, a tensor out, both as torch.save writes them."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from ..utils.util import list_classes_from_module
from . import loading
from .devices import choose_device

__all__ = ["DenseNetHandler", "list_classes_from_module"]

logger = logging.getLogger(__name__)


class DenseNetHandler:
    """Answers a batch of one request: the model's output for its tensor, with a leading axis of 1."""

    def __init__(self) -> None:
        self.model: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.manifest: Any = None
        self.map_location: str | None = None

    def initialize(self, context: Any) -> None:
        """TorchScript, or the manifest's modelFile with a state dict."""
        properties = context.system_properties
        self.manifest, self.device = context.manifest, choose_device(properties.get("gpu_id"))
        self.map_location = self.device.type
        directory, source = properties["model_dir"], self.manifest["model"].get("modelFile")
        path = str(Path(directory) / self.manifest["model"]["serializedFile"])
        if not Path(path).is_file():
            raise RuntimeError(f"{path}: the archive lacks its serializedFile")
        if source:
            self.model = self._load_pickled_model(directory, source, path)
        else:
            self.model = self._load_torchscript_model(path)
        self.model.to(self.device)
        self.model.eval()
        self.initialized = True

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return loading.load_torchscript(model_pt_path, self.device)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str) -> Any:
        return loading.load_eager(model_dir, model_file, model_pt_path, self.map_location)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.model(data.to(self.device), *args, **kwargs)

    def handle(self, data: Any, context: Any) -> list[Any]:
        start = time.perf_counter()
        self.context = context
        rows = [torch.load(io.BytesIO(row.get("data") or row.get("body")), weights_only=True) for row in data]
        output = self.inference(torch.stack(rows))
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - start) * 1000, 2), None, "ms")
        return [output]
