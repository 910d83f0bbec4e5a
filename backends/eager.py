"""`EagerBackend`: a PyTorch module from source (`model.py`) with weights from a state dict.

The version directory holds `model.py` with exactly one `torch.nn.Module` subclass of its own (imported ones do not count;
the parameter `model_class` picks one of several) that is made without arguments, and its weights: `model.safetensors`,
`model.pt`, or the only file of these kinds. A `.pt` file is read with `weights_only`: it may hold tensors, never code.
Modules beside `model.py` can be imported by their names.
`parameters` lists what a configuration may say.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from . import fusion
from .options import CannotLoad, flag
from .torch_batch import TorchBackend

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig
    from ..core.request import Instance

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


class EagerBackend(TorchBackend):
    """Runs `model.py`. See the module's page for its files."""

    def open_module(self, model: ModelConfig) -> Any:
        directory = Path(model.version_directory)
        source = source_file(directory, model.filename)
        weights = (
            str(model.config_json.get("default_model_filename", "")) if source.name == model.filename else model.filename
        )
        module = build(source, f"jitney_model_{model.name}_{model.version}", model.parameters.get("model_class", ""))
        load_weights(module, directory, weights)
        self._arguments = forward_arguments(module)
        module = module.eval().requires_grad_(False).to(self.device)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module

    def open(self, model: ModelConfig, instance: Instance) -> None:
        super().open(model, instance)
        if flag(model.parameters, "fuse"):
            plain, self.module = self.module, fusion.fused(self.module, model)
            self.check_fused(plain)
        options = compile_options(model.parameters)
        if options is not None:
            self.module = torch.compile(self.module, **options)

    def argument_names(self) -> tuple[str, ...] | None:
        return self._arguments


def source_file(directory: Path, filename: str = "") -> Path:
    source = directory / (filename if filename.endswith(".py") else "model.py")
    if not source.is_file():
        raise CannotLoad(f"{source} does not exist: an eager model needs its module's source there")
    return source


def build(source: Path, module_name: str, class_name: str = "") -> torch.nn.Module:
    """An instance of the module class in `source`, weights as its constructor leaves them."""
    cls = module_class(import_source(source, module_name), source, class_name)
    try:
        return cls()
    except TypeError as error:
        raise CannotLoad(f"{source}: {cls.__name__}() cannot be made without arguments: {error}") from error


def import_source(source: Path, module_name: str) -> ModuleType:
    """Imports `source` under a name of its own; its folder stays importable for the modules beside it."""
    folder = str(source.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = re.sub(r"\W", "_", module_name)
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be imported as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and torch.jit look their module up
    writes_bytecode, sys.dont_write_bytecode = (
        sys.dont_write_bytecode,
        True,
    )  # the repository is the operator's: no __pycache__
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = writes_bytecode
    return module


def module_class(module: ModuleType, source: Path, class_name: str = "") -> type[torch.nn.Module]:
    """The one nn.Module subclass that `module` defines itself, or the one called `class_name`."""
    own = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, torch.nn.Module) and item.__module__ == module.__name__
    ]
    chosen = [cls for cls in own if cls.__name__ == class_name] if class_name else own
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(cls.__name__ for cls in own) or "none"
    if class_name:
        raise CannotLoad(f"{source} defines no torch.nn.Module subclass '{class_name}', it defines: {names}")
    advice = "; name the one to serve in the parameter model_class" if own else ""
    raise CannotLoad(f"{source} must define exactly one torch.nn.Module subclass, it defines {len(own)}: {names}{advice}")


def load_weights(module: torch.nn.Module, directory: Path, filename: str = "") -> None:
    """Loads the version's state dict into `module`; every key must match."""
    path = weights_file(directory, filename)
    if path is None:
        if module.state_dict():
            suffixes = ", ".join(WEIGHT_SUFFIXES)
            raise CannotLoad(f"{directory} holds no weights ({suffixes}) for the parameters of model.py")
        return
    state = read_state_dict(path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CannotLoad(f"{path} does not fit {type(module).__name__} of model.py: {reason}") from None


def weights_file(directory: Path, filename: str = "") -> Path | None:
    """The configured file, `model.safetensors`, `model.pt`, or the only one of these kinds; None where there is none."""
    if filename and not filename.endswith(".py") and (directory / filename).exists():
        return directory / filename
    if filename.endswith(WEIGHT_SUFFIXES) and filename != "model.pt":  # model.pt may be a default that nobody wrote
        raise CannotLoad(f"{directory / filename} does not exist")
    for name in (f"model{suffix}" for suffix in WEIGHT_SUFFIXES):
        if (directory / name).is_file():
            return directory / name
    found = sorted(path for path in directory.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CannotLoad(f"{directory} holds several weight files ({names}); name one in default_model_filename")
    return found[0] if found else None


def read_state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a `.safetensors` file or of a state dict saved by torch; never runs code from the file."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise CannotLoad(
            f"{path} is refused: it holds more than tensors, save model.state_dict() instead ({reason})"
        ) from None
    except Exception as error:  # a damaged file may fail anywhere in zip, pickle or torch
        raise CannotLoad(f"{path} cannot be read as a state dict: {type(error).__name__}: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CannotLoad(f"{path} holds a {type(state).__name__}, expected a state dict: names mapped to tensors")
    return state


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CannotLoad(f"{path} is not a readable safetensors file: {error}") from None


def forward_arguments(module: torch.nn.Module) -> tuple[str, ...] | None:
    """Names of forward()'s arguments; None where its only one is annotated as a dict."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = [item for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    if len(named) == 1 and _is_dict(named[0].annotation):
        return None
    return tuple(item.name for item in named)


def _is_dict(annotation: Any) -> bool:
    if isinstance(annotation, str):  # from __future__ import annotations
        return annotation.split("[", 1)[0].rsplit(".", 1)[-1] in ("dict", "Dict", "Mapping")
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)


def compile_options(parameters: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments for torch.compile, None where the model is not to be compiled."""
    text = parameters.get("TORCH_COMPILE_OPTIONAL_PARAMETERS", "")
    if not flag(parameters, "compile", default=bool(text)):
        return None
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise CannotLoad(f"parameter TORCH_COMPILE_OPTIONAL_PARAMETERS is not JSON: {error}") from None
    if not isinstance(options, dict):
        raise CannotLoad(f"parameter TORCH_COMPILE_OPTIONAL_PARAMETERS must be a JSON object, got {text}")
    return options
