"""Loading what an archive may hold: a module with its state dict, TorchScript, ONNX, ahead-of-time compiled libraries."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from jitney.backends import operators
from jitney.backends.handler_loader import import_file
from jitney.backends.onnx_operators import with_extensions

from ..utils.util import check_valid_pt2_backend, list_classes_from_module

logger = logging.getLogger(__name__)


def load_eager(directory: str, model_file: str, weights: str | None, map_location: str | None) -> torch.nn.Module:
    """The only class that `model_file` defines, made without arguments, with its weights.

    Weights are read with `weights_only`: an archive's state dict holds tensors, never code. A handler whose file needs the
    unpickler overrides `_load_pickled_model`.
    """
    source = Path(directory) / model_file
    if not source.is_file():
        raise RuntimeError(f"{source}: the archive lacks its modelFile")
    classes = list_classes_from_module(import_file(source))
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "none"
        raise ValueError(f"Expected only one class as model definition in {model_file}, found: {names}")
    model: torch.nn.Module = classes[0]()
    if weights is not None:
        model.load_state_dict(read_weights(weights, map_location))
    return model


def read_weights(path: str, map_location: str | None) -> Mapping[str, Any]:
    """A state dict from .safetensors or torch.save's format."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path, device=map_location or "cpu")
    try:
        state: Mapping[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise RuntimeError(
            f"{path} holds more than tensors and is not unpickled; save model.state_dict(), or override "
            f"_load_pickled_model in a handler of your own: {error}"
        ) from error
    return state


def load_torchscript(path: str, device: torch.device) -> Any:
    """The program in `path`, with the operators of other packages (torchvision's `nms`) that it names."""
    advice = operators.register(Path(path))
    try:
        return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if not advice:
            raise
        raise RuntimeError(f"{str(error).rstrip()}{advice}") from error


# -- ONNX ----------------------------------------------------------------------------------------------------------------


def load_onnx(path: str, device: torch.device) -> Any:
    """An ONNX Runtime session on the worker's device, with the worker's share of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    options.log_severity_level = 3  # errors only
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    session = with_extensions(lambda: onnxruntime.InferenceSession(path, options, providers=providers), options)
    if len(session.get_providers()) < len(providers):  # TorchServe serves it from there too, and says nothing
        logger.warning("%s runs on the CPU: ONNX Runtime could not use %s; its reason is in the lines above", path, device)
    return session


def is_session(model: Any) -> bool:
    """Whether `model` is an ONNX Runtime session (without importing onnxruntime for those that are not)."""
    return type(model).__module__.startswith("onnxruntime.")


def run_session(session: Any, data: Any) -> Any:
    """Feeds a tensor, a sequence of tensors in the order of the inputs, or a dict by name. One output alone, or a list."""
    names = [entry.name for entry in session.get_inputs()]
    if isinstance(data, Mapping):
        feed = dict(data)
    else:
        values = list(data) if isinstance(data, list | tuple) else [data]
        if len(values) != len(names):
            raise ValueError(f"the ONNX model has {len(names)} inputs ({', '.join(names)}), got {len(values)}")
        feed = dict(zip(names, values, strict=True))
    arrays = {name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value for name, value in feed.items()}
    outputs = [torch.from_numpy(array) if hasattr(array, "dtype") else array for array in session.run(None, arrays)]
    return outputs[0] if len(outputs) == 1 else outputs


# -- torch.compile -------------------------------------------------------------------------------------------------------


def wants_ahead_of_time(config: Mapping[str, Any]) -> bool:
    """model-config.yaml says `pt2: {export: {aot_compile: true}}`."""
    section = config.get("pt2")
    export = section.get("export") if isinstance(section, Mapping) else None
    return isinstance(export, Mapping) and bool(export.get("aot_compile"))


def load_ahead_of_time(path: str, device: str) -> Any:
    """A .so (aot_compile) or .pt2 package (aoti_compile_and_package)."""
    if path.endswith(".pt2"):
        return torch._inductor.aoti_load_package(path)
    return torch._export.aot_load(path, device)


def compile_arguments(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """torch.compile's arguments from `pt2: inductor`, `pt2: {backend: …}` or `pt2: {compile: {enable: true, …}}`; None = off.

    A backend that TorchServe does not know gives a warning and no compilation, as there.
    """
    section = config.get("pt2")
    if isinstance(section, str):
        section = {"backend": section}
    if not isinstance(section, Mapping) or not section:
        return None
    if "compile" in section:
        arguments = dict(section["compile"] or {})
        if not arguments.pop("enable", False):
            return None
    elif "export" in section:
        return None
    else:
        arguments = dict(section)
    if "backend" in arguments and not check_valid_pt2_backend(arguments["backend"]):
        return None
    return arguments


def compile_model(model: Any, config: Mapping[str, Any]) -> Any:
    """`model` compiled as the yaml says; where that fails, a warning and the model as it was."""
    arguments = compile_arguments(config)
    if arguments is None:
        return model
    try:
        compiled = torch.compile(model, **arguments)
    except Exception as error:  # noqa: BLE001 - TorchServe goes on with the uncompiled model, whatever failed
        logger.warning("torch.compile(%s) failed, the model runs uncompiled: %s", arguments, error)
        return model
    logger.info("Compiled model with %s", arguments)
    return compiled
