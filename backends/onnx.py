"""`OnnxBackend`: a `model.onnx` on ONNX Runtime; the CUDA provider where the instance has a GPU and the build has it.

Settings as Triton's ONNX Runtime backend reads them:

    optimization.graph.level        0 or absent: all; 1: extended; -1: basic; 2: none
    optimization.execution_accelerators.gpu_execution_accelerator  name "cuda": its parameters are provider options
    parameters:
        intra_op_thread_count       threads of one operator; 0 or absent: this instance's share of the cores
        inter_op_thread_count       operators side by side (needs execution_mode 1); 0 or absent: 1
        execution_mode              0 sequential, 1 parallel
        enable_mem_arena, enable_mem_pattern                    1 (default) or 0
        memory.enable_memory_arena_shrinkage                    such as "cpu:0;gpu:0", after each run
        cudnn_conv_algo_search (0 exhaustive, 1 heuristic, 2 default), gpu_mem_limit, arena_extend_strategy (0, 1),
        do_copy_in_default_stream   options of the CUDA provider
        session.*                   any session configuration entry of ONNX Runtime

Idle threads do not spin unless `session.intra_op.allow_spinning` is "1": the cores are shared with other workers.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from .base import Failure, Instance
from .batch import Array, BadInput, BadOutput, TensorBackend
from .options import CannotLoad, integer
from .tensor import datatype_of

if TYPE_CHECKING:
    from ..server.repository.config import ModelConfig, TensorSpec

#: ONNX Runtime's type strings -> KServe v2 datatypes.
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_CUDA_CHOICES = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
_ERROR = re.compile(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", re.DOTALL)
_ERRORS_ONLY = 3
#: CUDA's words for errors after which the context is unusable; ONNX Runtime passes them on as text only.
_FATAL = re.compile(r"device-side assert|illegal memory access|unspecified launch failure|CUDA failure 7(00|10|19)")


class OnnxBackend(TensorBackend):
    """Runs an ONNX model. See the module's page for its settings."""

    def open(self, model: ModelConfig, instance: Instance) -> None:
        path = model_file(model)
        self._providers = providers(model, instance)
        self._on_gpu = any(name == "CUDAExecutionProvider" for name, _ in self._providers)
        try:
            self.session = ort.InferenceSession(path, session_options(model, instance), providers=self._providers)
        except Exception as error:
            raise CannotLoad(f"{path} cannot be loaded: {error_text(error)}") from error
        check_against(model, self.session)
        self._run_options = run_options(model.parameters)
        bfloat = [spec for spec in (*model.inputs, *model.outputs) if spec.datatype == "BF16"]
        strings = [spec for spec in (*model.inputs, *model.outputs) if spec.datatype == "BYTES"]
        if bfloat and strings:
            raise CannotLoad(f"model '{model.name}' mixes BF16 and BYTES tensors, which this backend cannot run")
        self._binds = bool(bfloat) or (self._on_gpu and not strings)
        self._names = [spec.name for spec in model.outputs]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self._binds:
            return self._run_bound(inputs)
        feed = {name: _strings(array) if array.datatype == "BYTES" else array.values for name, array in inputs.items()}
        outputs = self.session.run(self._names, feed, self._run_options)
        return {name: _output(self.model, name, values) for name, values in zip(self._names, outputs, strict=True)}

    def _run_bound(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """With I/O binding: one copy to the device, one back, and BF16, which numpy has no type for."""
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._value(array))
        for name in self._names:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding, self._run_options)
        values = binding.get_outputs()
        return {name: _from_value(self.model, name, value) for name, value in zip(self._names, values, strict=True)}

    def _value(self, array: Array) -> Any:
        values = np.ascontiguousarray(array.values)
        device, index = ("cuda", self.instance.gpu or 0) if self._on_gpu else ("cpu", 0)
        if array.datatype == "BF16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values, _BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(values, device, index)

    def explain(self, error: Exception) -> Failure:
        if isinstance(error, BadInput):
            return super().explain(error)
        text = error_text(error)
        full = "Failed to allocate memory" in text or "out of memory" in text
        return Failure(text, code="OUT_OF_MEMORY" if full else "INTERNAL")

    def is_fatal(self, error: Exception) -> bool:
        return self._on_gpu and _FATAL.search(str(error)) is not None


def model_file(model: ModelConfig) -> Path:
    """The model's file; a directory of that name holds `model.onnx` and its external data."""
    path = Path(model.version_directory) / (model.filename or "model.onnx")
    path = path / "model.onnx" if path.is_dir() else path
    if not path.is_file():
        raise CannotLoad(f"{path} does not exist")
    return path


def session_options(model: ModelConfig, instance: Instance) -> ort.SessionOptions:
    """Threads, graph level, memory and configuration entries from the model's settings."""
    parameters, options = model.parameters, ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = integer(parameters, "intra_op_thread_count", 0) or max(instance.threads, 1)
    options.inter_op_num_threads = integer(parameters, "inter_op_thread_count", 0) or 1
    parallel = integer(parameters, "execution_mode", 0)
    if parallel not in (0, 1):
        raise CannotLoad(f"parameter execution_mode must be 0 (sequential) or 1 (parallel), got {parallel}")
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = bool(integer(parameters, "enable_mem_arena", 1))
    options.enable_mem_pattern = bool(integer(parameters, "enable_mem_pattern", 1))
    options.graph_optimization_level = _graph_level(model)
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    entries |= {key: value for key, value in parameters.items() if key.startswith("session.")}
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _graph_level(model: ModelConfig) -> Any:
    level = int((model.optimization.get("graph") or {}).get("level", 0))
    if level not in _LEVELS:
        raise CannotLoad(f"optimization.graph.level must be one of {sorted(_LEVELS)}, got {level}")
    return _LEVELS[level]


def run_options(parameters: Mapping[str, str]) -> Any:
    """Options of each run, None where the defaults do."""
    shrink = parameters.get("memory.enable_memory_arena_shrinkage", "")
    if not shrink:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
    return options


def providers(model: ModelConfig, instance: Instance) -> list[tuple[str, dict[str, Any]]]:
    """CUDA first where this instance has a GPU and ONNX Runtime was built with it, then the CPU."""
    cpu: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})
    accelerators = model.optimization.get("execution_accelerators") or {}
    wanted = accelerators.get("gpu_execution_accelerator") or []
    for item in [*wanted, *(accelerators.get("cpu_execution_accelerator") or [])]:
        if item not in wanted or item.get("name") != "cuda":
            raise CannotLoad(
                f"unknown Execution Accelerator '{item.get('name')}' is requested; this server knows: cuda (GPU)"
            )
    if instance.gpu is None:
        return [cpu]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise CannotLoad(
            "this instance is placed on a GPU, but the installed onnxruntime has no CUDA provider (onnxruntime-gpu)"
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from the nvidia wheels, beside or without torch
    options = cuda_options(model.parameters) | {
        key: value for item in wanted for key, value in item.get("parameters", {}).items()
    }
    return [("CUDAExecutionProvider", {"device_id": instance.gpu} | options), cpu]


def cuda_options(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The CUDA provider's options that Triton takes from a model's parameters, in ONNX Runtime's words."""
    options: dict[str, Any] = {}
    for key, names in _CUDA_CHOICES.items():
        if key in parameters:
            index = integer(parameters, key, 0)
            if index >= len(names):
                raise CannotLoad(f"parameter {key} must be between 0 and {len(names) - 1}, got {index}")
            options[key] = names[index]
    if "gpu_mem_limit" in parameters:
        options["gpu_mem_limit"] = integer(parameters, "gpu_mem_limit", 0)
    if "do_copy_in_default_stream" in parameters:
        options["do_copy_in_default_stream"] = bool(integer(parameters, "do_copy_in_default_stream", 1))
    return options


def check_against(model: ModelConfig, session: Any) -> None:
    """Names, types and ranks of the configuration against the model's own; CannotLoad in Triton's words."""
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    _check(model, model.inputs, inputs, "input")
    _check(model, model.outputs, session.get_outputs(), "output")
    missing = [item.name for item in session.get_inputs() if model.input(item.name) is None]
    if missing:
        raise CannotLoad(f"model '{model.name}' needs input {', '.join(missing)}, which its configuration does not name")


def _check(model: ModelConfig, specs: Sequence[TensorSpec], found: Sequence[Any], side: str) -> None:
    known = {item.name: item for item in found}
    for spec in specs:
        if spec.name not in known:
            raise CannotLoad(f"unexpected inference {side} '{spec.name}', allowed {side}s are: {', '.join(known)}")
        datatype = DATATYPES.get(known[spec.name].type)
        if datatype != spec.datatype:
            theirs = datatype or known[spec.name].type
            raise CannotLoad(f"{side} '{spec.name}' of model '{model.name}' is {theirs}, but configured as {spec.datatype}")
        _check_shape(model, spec, known[spec.name].shape)


def _check_shape(model: ModelConfig, spec: TensorSpec, symbolic: Sequence[Any] | None) -> None:
    if symbolic is None:  # rank unknown to the model too
        return
    shape = [size if isinstance(size, int) else -1 for size in symbolic]
    declared = [*([-1] if model.batches else []), *(spec.dims if spec.reshape is None else spec.reshape)]
    fits = len(shape) == len(declared) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(shape, declared, strict=True)
    )
    if fits and not (model.max_batch_size > 1 and shape[0] not in (-1,)):
        return
    note = (
        " (an initial batch dimension because max_batch_size > 0 followed by the configured shape)" if model.batches else ""
    )
    raise CannotLoad(
        f"model '{model.name}', tensor '{spec.name}': the model expects {len(shape)} dimensions (shape {shape}) "
        f"but the model configuration specifies {len(declared)} dimensions{note}, making complete shape {declared}"
    )


def error_text(error: Exception) -> str:
    """An exception of ONNX Runtime in the words that Triton's users know: `onnx runtime error <code>: <text>`."""
    match = _ERROR.search(str(error))
    return f"onnx runtime error {match[1]}: {match[2]}" if match else f"onnx runtime error: {error}"


def _strings(array: Array) -> Any:
    """BYTES as ONNX strings, which are text in ONNX Runtime's Python API."""
    texts = np.empty(array.values.size, dtype=object)
    try:
        texts[:] = [element.decode() for element in array.values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise BadInput(f"a string element is not UTF-8: {error}") from None
    return texts.reshape(array.values.shape)


def _output(model: ModelConfig, name: str, values: Any) -> Array:
    if not isinstance(values, np.ndarray):
        raise BadOutput(f"output '{name}' of model '{model.name}' is a {type(values).__name__}, expected a tensor")
    return Array(datatype_of(values.dtype), values)


def _from_value(model: ModelConfig, name: str, value: Any) -> Array:
    """The elements of an OrtValue in host memory; BF16 is copied bit by bit."""
    if value.data_type() != "tensor(bfloat16)":
        return _output(model, name, value.numpy())
    shape = tuple(value.shape())
    if not prod(shape):
        return Array("BF16", np.empty(shape, dtype=np.uint16))
    bits = (ctypes.c_uint16 * prod(shape)).from_address(value.data_ptr())
    return Array("BF16", np.frombuffer(bits, dtype=np.uint16).reshape(shape).copy())
