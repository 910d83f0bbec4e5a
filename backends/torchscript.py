"""`TorchScriptBackend`: a `model.pt` saved with torch.jit.save.

Inputs reach forward() by argument name, by `__<index>`, in the order of the configuration, or as one Dict[str, Tensor]
(Triton's conventions). `parameters` lists what a configuration may say.

torch.jit is deprecated in torch 2.13 and works; its deprecation warnings are silenced here and nowhere else.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import fusion, operators
from .memory import is_out_of_memory
from .options import CannotLoad, flag, optional_flag
from .torch_batch import TorchBackend

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig
    from ..core.request import Instance


class TorchScriptBackend(TorchBackend):
    """Runs a TorchScript archive. See `parameters` for its settings."""

    warm_up_runs = 2

    def open_module(self, model: ModelConfig) -> Any:
        parameters = model.parameters
        configure_executor(parameters)
        self._optimized = not flag(parameters, "DISABLE_OPTIMIZED_EXECUTION")
        path = Path(model.version_directory) / (model.filename or "model.pt")
        module = load(path, self.device)
        self._arguments = script_arguments(module)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        self._plain = module
        return optimize(module, parameters)

    def open(self, model: ModelConfig, instance: Instance) -> None:
        super().open(model, instance)
        if flag(model.parameters, "fuse"):
            fusion.fused_program(self.module, fusion.norms_of(self._plain), model)
            self.check_fused(self._plain)
        self._plain = None

    def argument_names(self) -> tuple[str, ...] | None:
        return self._arguments

    def call(self, tensors: dict[str, Any]) -> Any:
        if self._optimized:
            return super().call(tensors)
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return super().call(tensors)


@contextmanager
def quiet_jit() -> Iterator[None]:
    """Silences what torch says about torch.jit being deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`?torch\.jit\.", category=DeprecationWarning)
        yield


def load(path: Path, device: torch.device) -> Any:
    """The module in `path` on `device`, in eval mode; CannotLoad names the file that is not TorchScript."""
    if not path.is_file():
        raise CannotLoad(f"{path} does not exist")
    advice = operators.register(path)
    try:
        with quiet_jit():
            return torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        if is_saved_object(path):
            raise CannotLoad(
                f"{path} cannot be loaded as TorchScript: it is what torch.save wrote, a state dict or a pickled module. Put a "
                "model.py with the module's class beside it and save model.state_dict(), or write a program: "
                "torch.jit.script(model).save(…), or torch.export.save(…, 'model.pt2')"
            ) from None
        raise CannotLoad(f"{path} cannot be loaded as TorchScript: {str(error).rstrip()}{advice}") from None


def is_saved_object(path: Path) -> bool:
    """Whether torch.save wrote the file: a zip with `<name>/data.pkl`, without the `constants.pkl` of a program."""
    try:
        with zipfile.ZipFile(path) as archive:
            ends = {name.rpartition("/")[2] for name in archive.namelist()}
            return "data.pkl" in ends and "constants.pkl" not in ends
    except (OSError, zipfile.BadZipFile):
        return False


def script_arguments(module: Any) -> tuple[str, ...] | None:
    """Names of forward()'s arguments; None where its only one is a Dict."""
    arguments = module.forward.schema.arguments[1:]
    if len(arguments) == 1 and arguments[0].type.kind() == "DictType":
        return None
    return tuple(argument.name for argument in arguments)


def optimize(module: Any, parameters: Mapping[str, str]) -> Any:
    """Applies `freeze`, which does what `fuse` asks for too, and `optimize_for_inference`; a module that cannot be frozen is
    refused with torch's reason."""
    with quiet_jit():
        if flag(parameters, "optimize_for_inference"):
            return torch.jit.optimize_for_inference(module)
        return torch.jit.freeze(module) if flag(parameters, "freeze") or flag(parameters, "fuse") else module


def configure_executor(parameters: Mapping[str, str]) -> None:
    """Triton's switches of the JIT executor, which are settings of the whole process."""
    setters = {
        "ENABLE_JIT_EXECUTOR": torch._C._jit_set_profiling_executor,
        "ENABLE_JIT_PROFILING": torch._C._jit_set_profiling_mode,
        "ENABLE_TENSOR_FUSER": torch._C._jit_set_texpr_fuser_enabled,
    }
    for key, setter in setters.items():
        switched = optional_flag(parameters, key)
        if switched is not None:
            setter(switched)
