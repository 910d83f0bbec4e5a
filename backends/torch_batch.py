"""What the two PyTorch backends share: device, threads, tensors to and from torch, the names of inputs and outputs.

`parameters` lists the model parameters that are read here. On a GPU a batch goes through page-locked memory, in pieces while it
is being stacked (`staging`), pixels are normalised there, and the model's kernels may come from a graph (`cuda_graphs`).
"""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..core.request import Failure, Instance, Request
from . import fusion
from .batch import Array, BadInput, BadOutput, TensorBackend
from .cuda_graphs import CudaGraphs
from .memory import is_out_of_memory, trim
from .options import CannotLoad, choice, flag, integer
from .stacking import Key, OnDevice
from .staging import Staging, pinned
from .telling import text_of
from .torch_values import (
    TORCH_DTYPES,
    DeviceArray,
    DeviceWork,
    Normalizer,
    from_array,
    in_host_memory,
    strings,
    swallow_read_only_warning,
)
from .warmup import fair_batch

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig, TensorSpec
    from .device_decode import DeviceDecoder
    from .launching import Work

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_INDEXED = re.compile(r"__(\d+)$")
_log = logging.getLogger(__name__)


class TorchBackend(TensorBackend):
    """A TensorBackend whose `module` is a callable of torch tensors."""

    module: Any
    device: torch.device

    @abstractmethod
    def open_module(self, model: ModelConfig) -> Any:
        """The loaded module, on `self.device`, in eval mode."""

    @abstractmethod
    def argument_names(self) -> tuple[str, ...] | None:
        """Names of forward()'s arguments without self; None where it takes one dict of tensors."""

    def open(self, model: ModelConfig, instance: Instance) -> None:
        self.device = torch.device(instance.device)
        parameters = model.parameters
        set_threads(parameters, instance.threads)
        swallow_read_only_warning()
        self.stagings: list[Staging] = []
        self.graphs: CudaGraphs | None = None
        if self.device.type == "cuda":
            self._open_device(model)
        torch.backends.cudnn.enabled = not flag(parameters, "DISABLE_CUDNN")
        self.channels_last = flag(parameters, "channels_last")
        self.autocast = _AUTOCAST.get(choice(parameters, "autocast", ("off", "bf16", "fp16"), "off"))
        self.inference_mode = flag(parameters, "INFERENCE_MODE", default=True)
        self.cleans_cache = flag(parameters, "ENABLE_CACHE_CLEANING")
        on_gpu = self.device.type == "cuda"
        self.normalizer = Normalizer(self.pixels, self.device) if self.pixels is not None and on_gpu else None
        self.decoder = self._open_decoder(model)
        self.module = self.open_module(model)
        if on_gpu:
            trim()
        self.arguments = argument_order(model, self.argument_names())
        self.positions = _indices([spec.name for spec in model.outputs])
        self.launches = on_gpu

    def check_fused(self, plain: Any) -> None:
        """Compares the module, which is fused, with what it was made of; in float32, whatever `autocast` says."""
        batch = fair_batch(self.model)
        module, autocast, self.autocast = self.module, self.autocast, None

        def run(which: Any) -> dict[str, Any]:
            self.module = which
            tensors = {tensor.name: self._to_device(tensor.name, Array.of(tensor)) for tensor in batch}
            return self.forward(
                {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in tensors.items()}
            )

        try:
            fusion.check(lambda: run(plain), lambda: run(module), self.model)
        finally:
            self.module, self.autocast = module, autocast

    def _open_device(self, model: ModelConfig) -> None:
        parameters = model.parameters
        torch.cuda.set_device(self.device)
        torch.backends.cudnn.benchmark = flag(parameters, "cudnn_benchmark")
        self.copies_single = True  # from page-locked memory the copy does not wait
        if flag(parameters, "overlap_copies", default=True):
            self.stagings = [Staging(self.device) for _ in self.spaces]
        if flag(parameters, "cuda_graphs"):
            if not flag(parameters, "warmup", default=True):
                raise CannotLoad(
                    "parameter cuda_graphs needs warm-up, from whose batches graphs are captured; warmup is off"
                )
            self.graphs = CudaGraphs(self.device)

    def _open_decoder(self, model: ModelConfig) -> DeviceDecoder | None:
        """What decodes pictures on the device, for models that ask for it."""
        if self.pixels is None or self.pixels.geometry is None:
            return None
        from .device_decode import opened  # with Pillow

        return opened(model, self.pixels, self.pixels.geometry, self.device, self.lost_device)

    def prepared(self, requests: Sequence[Request]) -> Sequence[Request | Failure]:
        return requests if self.decoder is None else self.decoder.prepared(requests)

    def _stack(self, name: str, requests: list[Request], padded: int) -> Array:
        if self.decoder is None or not isinstance(requests[0].tensors[0], OnDevice):
            return super()._stack(name, requests, padded)
        rows = [tensor for request in requests for tensor in request.tensors if isinstance(tensor, OnDevice)]
        return DeviceArray.of_tensor(self.decoder.stacked(rows, padded))

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self.device.type == "cuda":
            return self.launch(inputs).outputs()
        tensors = {name: self._to_device(name, array) for name, array in inputs.items()}
        versions = {name: getattr(tensor, "_version", 0) for name, tensor in tensors.items()}
        outputs = {name: in_host_memory(self._to_host(name, value)) for name, value in self.compute(tensors).items()}
        if any(getattr(tensors[name], "_version", 0) > versions[name] for name in tensors):
            self._stop_sharing()
        return outputs

    def launch(self, inputs: dict[str, Array]) -> Work:
        """On a GPU everything is queued, the copies of the outputs too; their memory there is page-locked."""
        if self.device.type != "cuda":
            return super().launch(inputs)
        tensors = {name: self._to_device(name, array) for name, array in inputs.items()}
        return DeviceWork(
            {name: self._to_host(name, value) for name, value in self.compute(tensors).items()},
            self.device,
            self.cleans_cache,
        )

    def compute(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name, from tensors of the device to such, by a graph where there is one."""
        if self.graphs is None:
            return self.forward(tensors)
        return self.graphs.run(tensors, self.forward, capture=self.loading)

    def forward(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Calls the module and names its outputs, on the device."""
        with torch.inference_mode() if self.inference_mode else torch.no_grad():
            if self.autocast is None:
                return self.name_outputs(self.call(tensors))
            cached = self.graphs is None  # casts of weights that autocast keeps would not outlive a graph's capture
            with torch.autocast(self.device.type, dtype=self.autocast, cache_enabled=cached):
                return self.name_outputs(self.call(tensors))

    def call(self, tensors: dict[str, Any]) -> Any:
        """Calls the module with its inputs by argument name, by position, or as one dict."""
        if self.arguments is None:
            return self.module(tensors)
        if isinstance(self.arguments, dict):
            return self.module(**{self.arguments[name]: value for name, value in tensors.items()})
        return self.module(*[tensors.get(name) for name in self.arguments])

    def _stop_sharing(self) -> None:
        """The model works in place: from now on it gets copies, so that no request's memory changes under another reader."""
        if not self.copies_single:
            _log.info("model '%s' modifies its inputs in place; lone requests are copied for it", self.model.name)
        self.copies_single = True

    # -- tensors ----------------------------------------------------------------------------------------------------

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        return pinned(size) if self.device.type == "cuda" else super().allocate(size)

    def written(self, key: Key, buffer: npt.NDArray[np.uint8], start: int, stop: int) -> None:
        if self.stagings:
            self.stagings[self.space].written(key, buffer, start, stop)

    def _to_device(self, name: str, array: Array) -> Any:
        if array.datatype == "BYTES":
            return strings(array)
        if self.pixels is not None and self.device.type == "cpu" and self._is_pixels(name, array.datatype):
            array = Array(self.pixels.datatype, self.pixels.normalize(array.values))
        tensor = array.tensor if isinstance(array, DeviceArray) else self._sent(array)
        if self.normalizer is not None and self._is_pixels(name, array.datatype):
            tensor = self.normalizer(tensor)
        if self.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _sent(self, array: Array) -> torch.Tensor:
        """The elements on the device; from page-locked memory they may still be on their way."""
        staged = self.stagings[self.space].take(array.values) if self.stagings else None
        tensor = from_array(array) if staged is None else staged.view(TORCH_DTYPES[array.datatype]).view(array.values.shape)
        return tensor.to(self.device, non_blocking=True)

    def _to_host(self, name: str, value: Any) -> torch.Tensor | Array:
        """Queues the copy of one output; torch gives it page-locked memory where it comes from a GPU."""
        spec = self.model.output(name)
        if isinstance(value, torch.Tensor):
            if self.autocast is not None and spec is not None and value.is_floating_point():
                value = value.to(TORCH_DTYPES.get(spec.datatype, value.dtype))
            host: torch.Tensor = value.detach().contiguous().to("cpu", non_blocking=True)
            return host
        if spec is not None and spec.datatype == "BYTES" and isinstance(value, (list, tuple)):
            strings = np.array(list(value), dtype=object)
            return Array("BYTES", strings.reshape(-1, *(1 for _ in spec.dims)) if self.model.batches else strings)
        raise BadOutput(f"output '{name}' of model '{self.model.name}' is a {type(value).__name__}, expected a tensor")

    def name_outputs(self, result: Any) -> dict[str, Any]:
        """The configured outputs out of what forward() returned: a tensor, a tuple or list, a named tuple, or a dict."""
        specs = self.model.outputs
        if isinstance(result, Mapping):
            missing = [spec.name for spec in specs if spec.name not in result]
            if missing:
                raise BadOutput(f"model '{self.model.name}' returned no '{missing[0]}', only: {', '.join(map(str, result))}")
            return {spec.name: result[spec.name] for spec in specs}
        fields = getattr(result, "_fields", None)
        if fields is not None and all(spec.name in fields for spec in specs):
            return {spec.name: getattr(result, spec.name) for spec in specs}
        strings = isinstance(result, list) and bool(result) and isinstance(result[0], str)
        values: Sequence[Any] = result if isinstance(result, (tuple, list)) and not strings else (result,)
        return self._by_position(specs, values)

    def _by_position(self, specs: Sequence[TensorSpec], values: Sequence[Any]) -> dict[str, Any]:
        indices = self.positions
        if indices is None:
            if len(values) != len(specs):
                said = f"model '{self.model.name}' returned {len(values)} outputs"
                raise BadOutput(f"{said}, its configuration names {len(specs)}: {', '.join(spec.name for spec in specs)}")
            indices = list(range(len(specs)))
        if max(indices) >= len(values):
            raise BadOutput(
                f"output '{specs[indices.index(max(indices))].name}' asks for more than the {len(values)} returned"
            )
        return {spec.name: values[index] for spec, index in zip(specs, indices, strict=True)}

    # -- errors -----------------------------------------------------------------------------------------------------

    def explain(self, error: Exception) -> Failure:
        if is_out_of_memory(error):
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # also cuBLAS's and cuDNN's workspaces come from what torch leaves
            return Failure(text_of(error) or type(error).__name__, code="OUT_OF_MEMORY")
        if isinstance(error, BadInput):
            return Failure(str(error), code="INVALID_ARG")
        return Failure(f"PyTorch execute failure: {text_of(error) or type(error).__name__}")


def argument_order(model: ModelConfig, arguments: tuple[str, ...] | None) -> dict[str, str] | list[str] | None:
    """How inputs reach forward(): a dict input -> argument, a list of input names by position, or None for one dict.

    Triton's rule: all inputs are named after arguments, or all end in `__<index>`, or the order of the configuration.
    """
    if arguments is None:
        return None
    names = [spec.name for spec in model.inputs]
    if all(name in arguments for name in names):
        return {name: name for name in names}
    indices = _indices(names)
    if indices is None:
        _log.warning("model '%s': inputs are passed in the order of the configuration: %s", model.name, ", ".join(names))
        return names
    if sorted(indices) != list(range(len(names))):
        raise CannotLoad(f"inputs of model '{model.name}' end in {indices}, expected each of 0..{len(names) - 1} once")
    return [name for _, name in sorted(zip(indices, names, strict=True))]


def set_threads(parameters: Mapping[str, str], share: int) -> None:
    """Sets torch's thread counts from the parameters, else from this instance's share of the cores."""
    torch.set_num_threads(integer(parameters, ("INTRA_OP_THREAD_COUNT", "NUM_THREADS"), max(share, 1), minimum=1))
    between = integer(parameters, ("INTER_OP_THREAD_COUNT", "NUM_INTEROP_THREADS"), 1, minimum=1)
    if torch.get_num_interop_threads() == between:
        return
    try:
        torch.set_num_interop_threads(between)
    except RuntimeError:  # can be set once per process, before parallel work
        _log.warning("the number of inter-op threads stays %d: it was set before", torch.get_num_interop_threads())


def _indices(names: Sequence[str]) -> list[int] | None:
    """The numbers after `__` if every name has one, else None."""
    found = [_INDEXED.search(name) for name in names]
    return [int(match[1]) for match in found if match] if all(found) else None
