"""`ModelService` and `SingleNodeService`: the Multi Model Server's handlers, with a signature file."""

from __future__ import annotations

import ast
import json
import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class ModelService(ABC):
    """Handles the first request of a batch. The signature file, named by the manifest's `Model: {Signature}`, is JSON with
    `input_type` (a content type) and `inputs` (objects with `data_name`)."""

    def __init__(self, model_name: str, model_dir: str, manifest: dict[str, Any] | None, gpu: int | None = None) -> None:
        self.ctx: Any = None
        self._context: Any = None
        self._signature: dict[str, Any] | None = None

    def initialize(self, context: Any) -> None:
        self._context = context
        path = Path(context.system_properties["model_dir"]) / context.manifest["Model"]["Signature"]
        if not path.is_file():
            raise ValueError(f"{path}: the signature file is not found")
        self._signature = json.loads(path.read_bytes())

    @abstractmethod
    def inference(self, data: list[Any]) -> Any:
        """The answer for the request's data, a list of one."""

    @abstractmethod
    def ping(self) -> Any:
        """How the service is."""

    def signature(self) -> dict[str, Any] | None:
        return self._signature

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """Looks for the data under the signature's name, then `body`, then `data`."""
        if self._signature is None:
            raise RuntimeError(f"{type(self).__name__} was not initialized")
        names = (self._signature["inputs"][0]["data_name"], "body", "data")
        value = next((data[0][name] for name in names if data[0].get(name) is not None), None)
        if self._signature["input_type"] == "application/json" and isinstance(value, bytes | bytearray):
            value = _parsed(value.decode("utf-8"))
        answer = self.inference([value])
        return answer if isinstance(answer, list) else [answer]


def _parsed(text: str) -> Any:
    """JSON, or a Python literal, which is what the Multi Model Server read."""
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


class SingleNodeService(ModelService, ABC):
    """Three steps, of which `_inference` must be written; their times are logged."""

    def inference(self, data: list[Any]) -> Any:
        for step in (self._preprocess, self._inference, self._postprocess):
            start = time.perf_counter()
            data = step(data)
            logger.info("%s time: %.2f ms", step.__name__.strip("_"), (time.perf_counter() - start) * 1000)
        return data

    @abstractmethod
    def _inference(self, data: Any) -> Any:
        """The model's output for what `_preprocess` gave."""

    def _preprocess(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data
