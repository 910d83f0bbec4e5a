"""Loading a handler into a `ts.service.Service`, for programs that call handlers without a server."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from jitney.backends.handler_loader import find_entry, find_envelope, prepare_imports

from .metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from .service import Service
from .utils.util import list_classes_from_module

__all__ = [
    "MetricsCacheYamlImpl",
    "ModelLoader",
    "ModelLoaderFactory",
    "Service",
    "TsModelLoader",
    "list_classes_from_module",
]


class ModelLoader(ABC):
    @abstractmethod
    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str,
        gpu_id: int | None = None,
        batch_size: int | None = None,
        envelope: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: MetricsCacheYamlImpl | None = None,
    ) -> Service:
        """The handler of the archive unpacked in `model_dir`, initialized."""


class TsModelLoader(ModelLoader):
    """Finds handlers as the server does (`backends/handler_loader.py`); the folder comes first on `sys.path` from then on."""

    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str,
        gpu_id: int | None = None,
        batch_size: int | None = None,
        envelope: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: MetricsCacheYamlImpl | None = None,
    ) -> Service:
        if metrics_cache is not None:
            metrics_cache.set_request_ids(str(uuid.uuid4()))  # there is no request yet
        file = Path(model_dir) / "MAR-INF/MANIFEST.json"
        manifest: dict[str, Any] | None = json.loads(file.read_bytes()) if file.is_file() else None
        prepare_imports(model_dir)
        entry = find_entry(model_dir, handler)
        service = Service(
            model_name,
            model_dir,
            manifest,
            find_envelope(envelope or "", entry.handle),
            gpu_id,
            batch_size,
            limit_max_image_pixels,
            metrics_cache,
        )
        entry.initialize(service.context)
        return service


class ModelLoaderFactory:
    @staticmethod
    def get_model_loader() -> TsModelLoader:
        return TsModelLoader()
