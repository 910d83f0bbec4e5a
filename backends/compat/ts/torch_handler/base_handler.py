"""`BaseHandler`: loads a model from an archive and runs preprocess, inference and postprocess on each batch."""

from __future__ import annotations

import importlib.util
import logging
import time
from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..handler_utils.timer import timed
from ..utils.util import check_valid_pt2_backend, list_classes_from_module, load_label_mapping
from . import loading, profiling
from .devices import choose_device

__all__ = [
    "IPEX_AVAILABLE",
    "ONNX_AVAILABLE",
    "PROFILER_AVAILABLE",
    "PT2_AVAILABLE",
    "PT230_AVAILABLE",
    "XLA_AVAILABLE",
    "BaseHandler",
    "check_valid_pt2_backend",
    "list_classes_from_module",
    "load_label_mapping",
    "setup_ort_session",
    "timed",
]

logger = logging.getLogger(__name__)

#: What `BaseHandler` makes use of: torch's profiler, torch.compile and ahead-of-time compiled libraries come with every torch
#: that jitney takes; nothing is done for XLA devices or by Intel's extension.
PROFILER_AVAILABLE = PT2_AVAILABLE = PT230_AVAILABLE = True
XLA_AVAILABLE = IPEX_AVAILABLE = False
ONNX_AVAILABLE = importlib.util.find_spec("onnxruntime") is not None

if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, as TorchServe sets it


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """An ONNX Runtime session on the GPU ("cuda") or the CPU."""
    return loading.load_onnx(model_pt_path, torch.device(map_location or "cpu"))


class BaseHandler(ABC):  # noqa: B024 - abstract methods are for subclasses to add
    """Subclasses override what they need of `initialize`, `preprocess`, `inference`, `postprocess`, `handle`.

    model          nn.Module, TorchScript module or ONNX Runtime session
    mapping        class names from index_to_name.json, None without the file
    device         torch.device; `map_location` its type for torch.load
    context        the worker's Context; its requests change with every batch

    Names of our own are of the module, or begin with two underscores: handlers take any other name for themselves.
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Loads the archive's model to the device that the server chose, and its class names."""
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        self.device = choose_device(properties.get("gpu_id"))
        self.map_location = self.device.type
        directory = Path(properties["model_dir"])
        self.__load(directory, (self.manifest or {}).get("model", {}))
        self.mapping = load_label_mapping(str(directory / "index_to_name.json"))
        self.initialized = True

    def __load(self, directory: Path, model: dict[str, Any]) -> None:
        """First match: modelFile, TorchScript, ONNX, ahead-of-time compiled."""
        serialized, source = model.get("serializedFile"), model.get("modelFile")
        self.model_pt_path = str(directory / serialized) if serialized else None
        path = self.model_pt_path or ""
        if source:
            self.model = self._load_pickled_model(str(directory), source, self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
        elif path.endswith(".pt"):
            self.model = self._load_torchscript_model(path)
            self.model.eval()
        elif path.endswith(".onnx"):
            self.model = loading.load_onnx(path, self.device)
            return
        elif path.endswith((".so", ".pt2")) and self._use_torch_export_aot_compile():
            self.model = self._load_torch_export_aot_compile(path)
            return
        else:
            raise RuntimeError(
                f"No model weights could be loaded: serializedFile is {serialized!r} and there is no modelFile; a handler of "
                "its own must load what is no .pt (TorchScript), .onnx, or .so/.pt2 with pt2.export.aot_compile"
            )
        self.model = loading.compile_model(self.model, self.model_yaml_config)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """The only class of `model_file`, made without arguments, with the state dict in `model_pt_path` if there is one."""
        return loading.load_eager(model_dir, model_file, model_pt_path, self.map_location)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return loading.load_torchscript(model_pt_path, self.device)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        return loading.load_ahead_of_time(model_so_path, self.map_location or "cpu")

    def _use_torch_export_aot_compile(self) -> bool:
        return loading.wants_ahead_of_time(self.model_yaml_config)

    def get_device(self) -> Any:
        return self.device

    # -- the three steps -------------------------------------------------------------------------------------------------

    @timed
    def preprocess(self, data: Any) -> Any:
        """The requests' data as one tensor."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs for preprocessed data; an ONNX model's as tensors, one or a list."""
        with torch.inference_mode():
            if loading.is_session(self.model):
                return loading.run_session(self.model, data)
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """A list with one element for each request."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """Answers a batch: a description, explanations, or predictions; emits HandlerTime."""
        start = time.perf_counter()
        self.context = context
        if self._is_describe():
            output = [self.describe_handle()]
        elif profiling.wanted():
            output, _ = self._infer_with_profiler(data)
        else:
            output = self.__answer(data, lambda step, value: getattr(self, step)(value))
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - start) * 1000, 2), None, "ms")
        return output

    def __answer(self, data: Any, run: Callable[[str, Any], Any]) -> Any:
        prepared = run("preprocess", data)
        if self._is_explain():
            return self.explain_handle(prepared, data)
        return run("postprocess", run("inference", prepared))

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        """`handle`'s work under torch's profiler (ENABLE_TORCH_PROFILER); returns the output and the profiler."""
        return profiling.profiled(
            lambda run: self.__answer(data, lambda step, value: run(step, getattr(self, step), value)),
            _model_name(self),
            self.profiler_args,
        )

    # -- descriptions and explanations -----------------------------------------------------------------------------------

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """`get_insights` with the first request's data and its field `target` (class index, 0 without one)."""
        row = raw_data[0] if raw_data else None
        inputs, target = None, 0
        if isinstance(row, dict):
            inputs, target = row.get("data") or row.get("body"), _target(row.get("target"))
        return self.get_insights(data_preprocess, inputs, target)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} explains nothing: it has no get_insights")

    def describe_handle(self) -> Any:
        """What `GET /models/…?customized=true` shows; handlers that describe themselves override it."""
        return None

    def _is_explain(self) -> bool:
        if self.context is not None and self.context.get_request_header(0, "explain") == "True":
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "describe") == "True"


def _model_name(handler: BaseHandler) -> str:
    """The manifest's, else the name of registration; "" in a context that has neither, such as a test's."""
    manifest = handler.manifest or handler.context.manifest or {}
    return str(manifest.get("model", {}).get("modelName") or getattr(handler.context, "model_name", ""))


def _target(value: Any) -> Any:
    """A class index from a form field or JSON; 0 without one."""
    if isinstance(value, bytes | bytearray):
        value = bytes(value).decode()
    if isinstance(value, str):
        return int(value) if value.strip() else 0
    return value or 0
