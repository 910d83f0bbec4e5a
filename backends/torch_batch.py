"""What the two PyTorch backends share: device, threads, tensors to and from torch, the names of inputs and outputs.

Parameters of a model (the values are strings; Triton's names in capitals):

    INFERENCE_MODE (true)      false: `no_grad` instead, for models that refuse inference tensors
    INTRA_OP_THREAD_COUNT, NUM_THREADS          threads of one operator; default: this instance's share of the cores
    INTER_OP_THREAD_COUNT, NUM_INTEROP_THREADS  operators side by side; default 1
    DISABLE_CUDNN (false)      run without cuDNN
    cudnn_benchmark (false)    let cuDNN measure its algorithms for each shape (best with fixed shapes)
    ENABLE_CACHE_CLEANING (false)  give cached device memory back after each batch
    channels_last (false)      keep 4-D weights and inputs in NHWC order
    autocast (off)             bf16 or fp16: run what torch deems safe in that precision; outputs stay as declared
"""

from __future__ import annotations

import logging
import re
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from .base import Failure, Instance
from .batch import Array, BadInput, BadOutput, TensorBackend
from .options import CannotLoad, choice, flag, integer

if TYPE_CHECKING:
    from ..server.repository.config import ModelConfig, TensorSpec

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
_TORCH_DTYPES = {name: dtype for dtype, name in _DATATYPES.items()}
#: CUDA's codes of errors that leave the context usable: invalid value, out of memory, invalid configuration, too many resources.
_PASSING_ERRORS = (1, 2, 9, 701)
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
        _swallow_read_only_warning()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = flag(parameters, "cudnn_benchmark")
        torch.backends.cudnn.enabled = not flag(parameters, "DISABLE_CUDNN")
        self.channels_last = flag(parameters, "channels_last")
        self.autocast = _AUTOCAST.get(choice(parameters, "autocast", ("off", "bf16", "fp16"), "off"))
        self.inference_mode = flag(parameters, "INFERENCE_MODE", default=True)
        self.cleans_cache = flag(parameters, "ENABLE_CACHE_CLEANING")
        self.module = self.open_module(model)
        self.arguments = argument_order(model, self.argument_names())

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        tensors = {name: self._to_device(array) for name, array in inputs.items()}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode() if self.inference_mode else torch.no_grad())
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, dtype=self.autocast))
            outputs = self._to_host(self.name_outputs(self.call(tensors)))
        if self.device.type == "cpu" and any(getattr(tensor, "_version", 0) for tensor in tensors.values()):
            self._stop_sharing()
        if self.cleans_cache and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return outputs

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
        """Pinned memory where the model runs on a GPU, so that copies to it do not wait."""
        if self.device.type != "cuda":
            return super().allocate(size)
        pinned: npt.NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned

    def _to_device(self, array: Array) -> Any:
        if array.datatype == "BYTES":
            return _strings(array)
        values = array.values if array.values.flags.c_contiguous else np.ascontiguousarray(array.values)
        tensor = torch.from_numpy(values)
        if array.datatype == "BF16":
            tensor = tensor.view(torch.bfloat16)
        tensor = tensor.to(self.device, non_blocking=True)
        if self.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _to_host(self, outputs: dict[str, Any]) -> dict[str, Array]:
        """All outputs in host memory; one wait for all copies."""
        moved = {name: self._start_to_host(name, value) for name, value in outputs.items()}
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return {name: value if isinstance(value, Array) else _array(value) for name, value in moved.items()}

    def _start_to_host(self, name: str, value: Any) -> torch.Tensor | Array:
        spec = self.model.output(name)
        if isinstance(value, torch.Tensor):
            if self.autocast is not None and spec is not None and value.is_floating_point():
                value = value.to(_TORCH_DTYPES.get(spec.datatype, value.dtype))
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
        indices = _indices([spec.name for spec in specs])
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
        if isinstance(error, torch.OutOfMemoryError):
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return Failure(str(error), code="OUT_OF_MEMORY")
        if isinstance(error, BadInput):
            return Failure(str(error), code="INVALID_ARG")
        return Failure(
            f"PyTorch execute failure: {error}" if str(error) else f"PyTorch execute failure: {type(error).__name__}"
        )

    def is_fatal(self, error: Exception) -> bool:
        """A device-side assert or an illegal access poisons the CUDA context for the rest of the process."""
        return isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) not in _PASSING_ERRORS


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


def _array(tensor: torch.Tensor) -> Array:
    datatype = _DATATYPES.get(tensor.dtype)
    if datatype is None:
        raise BadOutput(f"the model returned a tensor of {tensor.dtype}, which has no KServe v2 datatype")
    if datatype == "BF16":
        tensor = tensor.view(torch.uint16)
    return Array(datatype, tensor.numpy())


def _strings(array: Array) -> list[str]:
    """BYTES as TorchScript's List[str]."""
    try:
        return [element.decode() for element in array.values.reshape(-1)]
    except UnicodeDecodeError as error:
        raise BadInput(f"a string element is not UTF-8: {error}") from None


def _swallow_read_only_warning() -> None:
    """torch warns once per process when it wraps read-only memory; that memory is not written here (`_stop_sharing`)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        torch.from_numpy(np.frombuffer(b"\0", dtype=np.uint8))
