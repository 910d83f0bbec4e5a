"""The settings of an ONNX model, as Triton's ONNX Runtime backend reads them, in ONNX Runtime's objects.

    optimization.graph.level        0 or absent: all; 1: extended; -1: basic; 2: none
    optimization.execution_accelerators.gpu_execution_accelerator  name "cuda": its parameters are provider options

Parameters are listed in `parameters`. Idle threads do not spin unless `session.intra_op.allow_spinning` is "1": the cores are
shared with other workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from ..core.request import Instance
from .onnx_session import shadowed
from .options import CannotLoad, flag, integer

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

#: When memory arenas shrink: a configuration entry of each run.
SHRINKAGE = "memory.enable_memory_arena_shrinkage"
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
_ERRORS_ONLY = 3
_CUDA = "CUDAExecutionProvider"


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
    shrink = parameters.get(SHRINKAGE, "")
    if not shrink:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry(SHRINKAGE, shrink)
    return options


def providers(model: ModelConfig, instance: Instance) -> list[tuple[str, dict[str, Any]]]:
    """CUDA first where this instance has a GPU and ONNX Runtime was built with it, then the CPU."""
    cpu: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})
    accelerators = model.optimization.get("execution_accelerators") or {}
    wanted = accelerators.get("gpu_execution_accelerator") or []
    for item in [*wanted, *(accelerators.get("cpu_execution_accelerator") or [])]:
        if item not in wanted or item.get("name") != "cuda":
            raise CannotLoad(
                f"unknown Execution Accelerator '{item.get('name')}' is requested; this server knows: cuda (GPU). "
                "Delete the entry: ONNX Runtime's own kernels run the model"
            )
    if instance.gpu is None:
        return [cpu]
    if _CUDA not in ort.get_available_providers():
        raise CannotLoad(
            "this instance is placed on a GPU, but the installed onnxruntime has no CUDA provider; install onnxruntime-gpu with: "
            f"pip install 'jitney[gpu]', or write kind: KIND_CPU{shadowed()}"
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from the nvidia wheels, beside or without torch
    options = cuda_options(model.parameters) | {
        key: value for item in wanted for key, value in item.get("parameters", {}).items()
    }
    if uses_graphs(model, on_gpu=True):
        options["enable_cuda_graph"] = "1"
    return [(_CUDA, {"device_id": instance.gpu} | options), cpu]


def plain_providers(found: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """The same devices without the model's own options, for the session that normalises."""
    return [(name, {key: value for key, value in options.items() if key == "device_id"}) for name, options in found]


def binds(model: ModelConfig, on_gpu: bool) -> bool:
    """Whether inputs and outputs are bound to memory: on a GPU, where asked for, and for BF16; strings cannot be."""
    specs = (*model.inputs, *model.outputs)
    strings, bfloat = (any(spec.datatype == kind for spec in specs) for kind in ("BYTES", "BF16"))
    wanted = flag(model.parameters, "io_binding", default=on_gpu and not strings)
    if strings and bfloat:
        raise CannotLoad(f"model '{model.name}' mixes BF16 and BYTES tensors, which this backend cannot run")
    if strings and wanted:
        raise CannotLoad(
            f"parameter io_binding: model '{model.name}' has BYTES tensors, which cannot be bound; set it to false"
        )
    return wanted or bfloat


def uses_graphs(model: ModelConfig, on_gpu: bool) -> bool:
    """Whether batches of fixed sizes run as CUDA graphs; CannotLoad where the other settings do not allow it."""
    parameters = model.parameters
    if not on_gpu or not flag(parameters, "cuda_graphs"):
        return False
    if not flag(parameters, "warmup", default=True):
        raise CannotLoad("parameter cuda_graphs needs warm-up, from whose batches graphs are captured; warmup is off")
    if any(spec.datatype in ("BYTES", "BF16") for spec in (*model.inputs, *model.outputs)):
        raise CannotLoad("parameter cuda_graphs: BYTES and BF16 tensors cannot have fixed places on the device")
    if not binds(model, on_gpu):
        raise CannotLoad("parameter cuda_graphs needs io_binding, which is false")
    if "gpu" in parameters.get(SHRINKAGE, ""):
        raise CannotLoad(
            f"parameter cuda_graphs cannot go with {SHRINKAGE} {parameters[SHRINKAGE]}: a graph's memory must stay where it was "
            "when it was captured; leave one of them out, or shrink the arena of the CPU only"
        )
    return True


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
