"""`OnnxBackend`: a `model.onnx` on ONNX Runtime; the CUDA provider where the instance has a GPU and the build has it.

`parameters` and `onnx_options` list what a configuration may say. On a GPU inputs and outputs are bound to memory
(`onnx_binding`), and where the worker normalises pixels, a second, tiny session does it there (`onnx_pixels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.request import Failure, Instance
from ..core.tensor import datatype_of
from . import cuda_context, onnx_pixels
from .batch import Array, BadInput, BadOutput, TensorBackend
from .memory import is_out_of_memory, trim
from .onnx_binding import Binding
from .onnx_options import SHRINKAGE, binds, plain_providers, providers, run_options, session_options, uses_graphs
from .onnx_session import error_text, open_session
from .options import CannotLoad
from .shape_check import check_datatype, check_shape, shows_scalar, with_scalars

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig, TensorSpec

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


class OnnxBackend(TensorBackend):
    """Runs an ONNX model. See `parameters` for its settings."""

    def open(self, model: ModelConfig, instance: Instance) -> None:
        path = model_file(model)
        self._providers = providers(model, instance)
        self._on_gpu = any(name == "CUDAExecutionProvider" for name, _ in self._providers)
        self.session = open_session(path, session_options(model, instance), self._providers)
        if self._on_gpu:
            trim()
        check_against(model, self.session)
        inputs = [*self.session.get_inputs(), *self.session.get_overridable_initializers()]
        untold = _scalars(self.session.get_outputs())
        self.model = with_scalars(model, _scalars(inputs), untold)
        self._names = [spec.name for spec in model.outputs]
        self._untold = [name for name in self._names if name in untold]
        self._run_options = run_options(model.parameters)
        self.binding = self._bind(model, instance) if binds(model, self._on_gpu) else None

    def _bind(self, model: ModelConfig, instance: Instance) -> Binding:
        normalizer = None
        if self.pixels is not None:
            own = {key: value for key, value in model.parameters.items() if not key.startswith("session.")}
            tiny = session_options(replace(model, optimization={}, parameters=own), instance)
            normalizer = onnx_pixels.session_of(self.pixels, tiny, plain_providers(self._providers))
        return Binding(
            self.session,
            self._names,
            ("cuda", instance.gpu or 0) if self._on_gpu else ("cpu", 0),
            shrink=model.parameters.get(SHRINKAGE, ""),
            graphs=uses_graphs(model, self._on_gpu),
            normalizer=normalizer,
            pixels="" if self.pixels is None else self.pixels.name,
        )

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """On a GPU page-locked: ONNX Runtime's copies from ordinary memory go through a buffer of the driver's."""
        if self._on_gpu and self.binding is not None:
            return cuda_context.page_locked(size, self.instance.gpu or 0)
        return super().allocate(size)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self.binding is not None:
            outputs = self.binding.run(inputs, capture=self.loading)
        else:
            feed = {name: self._fed(name, array) for name, array in inputs.items()}
            found = self.session.run(self._names, feed, self._run_options)
            outputs = {name: _output(self.model, name, values) for name, values in zip(self._names, found, strict=True)}
        for name in self._untold:
            _check_rank(self.model, name, outputs[name].values)
        return outputs

    def _fed(self, name: str, array: Array) -> Any:
        if array.datatype == "BYTES":
            return _strings(array)
        if self.pixels is not None and self._is_pixels(name, array.datatype):
            return self.pixels.normalize(array.values)
        return array.values

    def explain(self, error: Exception) -> Failure:
        if isinstance(error, BadInput):
            return super().explain(error)
        return Failure(error_text(error), code="OUT_OF_MEMORY" if is_out_of_memory(error) else "INTERNAL")


def model_file(model: ModelConfig) -> Path:
    """The model's file; a directory of that name holds `model.onnx` and its external data. CannotLoad where there is none."""
    path = in_directory(Path(model.version_directory) / (model.filename or "model.onnx"))
    if not path.is_file():
        raise CannotLoad(f"{path} does not exist")
    return path


def in_directory(path: Path) -> Path:
    """`path`, or where it is a directory the `model.onnx` in it, as in Triton."""
    return path / "model.onnx" if path.is_dir() else path


def check_against(model: ModelConfig, session: Any) -> None:
    """Names, types and ranks of the configuration against the model's own; CannotLoad in Triton's words."""
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    _check(model, model.inputs, inputs, "input")
    _check(model, model.outputs, session.get_outputs(), "output")
    missing = [item.name for item in session.get_inputs() if model.input(item.name) is None]
    if missing:
        raise CannotLoad(f"model '{model.name}' needs input {', '.join(missing)}, which its configuration does not name")


def _scalars(found: Sequence[Any]) -> set[str]:
    """Names of what ONNX Runtime shows without any size: scalars, and outputs of a rank that the file does not tell."""
    return {item.name for item in found if item.shape == []}


def _check(model: ModelConfig, specs: Sequence[TensorSpec], found: Sequence[Any], side: str) -> None:
    known = {item.name: item for item in found}
    for spec in specs:
        if spec.name not in known:
            raise CannotLoad(f"unexpected inference {side} '{spec.name}', allowed {side}s are: {', '.join(known)}")
        datatype = DATATYPES.get(known[spec.name].type)
        check_datatype(model, spec, side, datatype or known[spec.name].type)
        shape = known[spec.name].shape
        if shape == [] and (side == "output" or shows_scalar(model, spec)):
            continue  # a scalar, or an output of a rank that the file does not tell: its answers are looked at
        check_shape(model, spec, shape)


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


def _check_rank(model: ModelConfig, name: str, values: npt.NDArray[Any]) -> None:
    """Only answers tell the rank of some outputs. BadOutput where it is another than the configuration's."""
    spec = model.output(name)
    if spec is None or (spec.reshape == () and not model.batches):
        return
    shape = spec.dims if spec.reshape is None else spec.reshape
    if values.ndim != len(shape) + model.batches:
        raise BadOutput(
            f"output '{name}' of model '{model.name}' has shape {list(values.shape)}, "
            f"but the model configuration says dims {list(shape)}{' behind the batch axis' if model.batches else ''}"
        )
