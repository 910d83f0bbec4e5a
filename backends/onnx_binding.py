"""`Binding`: an ONNX Runtime session run with I/O binding: inputs and outputs lie where they are told to.

Without it ONNX Runtime copies what it is given to the device and back in its own way, and BF16 cannot be had at all, for which
numpy has no type. With CUDA graphs each batch size has device memory and a graph of its own; graphs are captured from warm-up's
batches, never on a live request: other shapes run without one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..core.tensor import datatype_of
from .onnx_pixels import INPUT, OUTPUT
from .stacking import Array

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"

Key = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(slots=True)
class _Fixed:
    """Memory that stays, bound to a run that replays its graph."""

    binding: Any
    options: Any
    inputs: dict[str, Any]
    outputs: list[Any]


class Binding:
    """`device` is ("cpu", 0) or ("cuda", index); `shrink` the run configuration entry of memory arenas, "" = none.

    `normalizer` is a session of `onnx_pixels` for input `pixels`, run on the same device.
    """

    def __init__(
        self,
        session: Any,
        outputs: Sequence[str],
        device: tuple[str, int],
        *,
        shrink: str = "",
        graphs: bool = False,
        normalizer: Any = None,
        pixels: str = "",
    ) -> None:
        self._session, self._outputs, self._device, self._shrink = session, outputs, device, shrink
        self._graphs, self._normalizer, self._pixels = graphs, normalizer, pixels
        self._plain = self._options(_NO_GRAPH) if graphs else self._options()
        self._fixed: dict[Key, _Fixed] = {}

    @property
    def captured(self) -> int:
        """Graphs that were captured."""
        return len(self._fixed)

    def run(self, inputs: Mapping[str, Array], capture: bool = False) -> dict[str, Array]:
        """Outputs in host memory; `capture` keeps a graph for these shapes, where graphs are used."""
        if not self._graphs:
            return self._run_plain(inputs)
        key = self._key(inputs)
        if key not in self._fixed:
            if not capture:
                return self._run_plain(inputs)
            self._fixed[key] = self._capture(inputs, len(self._fixed) + 1)
        return self._replay(self._fixed[key], inputs)

    def again(self, inputs: Mapping[str, Array]) -> Callable[[], None]:
        """What runs the model on `inputs` once more: they lie on the device already, and the outputs stay there.

        With CUDA graphs it replays one that is captured for these shapes now.
        """
        if self._graphs:
            key = self._key(inputs)
            self._fixed[key] = self._capture(inputs, len(self._fixed) + 1)
            binding, options = self._fixed[key].binding, self._fixed[key].options
        else:
            binding, options = self._session.io_binding(), self._plain
            for name, array in inputs.items():
                binding.bind_ortvalue_input(name, self._value(name, array))
            for name in self._outputs:
                binding.bind_output(name, *self._device)
        return lambda: self._session.run_with_iobinding(binding, options)

    def _run_plain(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._value(name, array))
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, self._plain)
        return self._answers(binding.get_outputs())

    # -- graphs -----------------------------------------------------------------------------------------------------

    def _capture(self, inputs: Mapping[str, Array], number: int) -> _Fixed:
        """ONNX Runtime captures in the first run of a new graph number."""
        shapes = {name: (array.datatype, array.values.shape) for name, array in self._run_plain(inputs).items()}
        binding = self._session.io_binding()
        fixed = _Fixed(binding, self._options(str(number)), {}, [])
        for name, array in inputs.items():
            fixed.inputs[name] = self._value(name, array)
            binding.bind_ortvalue_input(name, fixed.inputs[name])
        for name in self._outputs:
            datatype, shape = shapes[name]
            fixed.outputs.append(ort.OrtValue.ortvalue_from_shape_and_type(shape, _numpy(datatype), *self._device))
            binding.bind_ortvalue_output(name, fixed.outputs[-1])
        self._session.run_with_iobinding(binding, fixed.options)
        return fixed

    def _replay(self, fixed: _Fixed, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in inputs.items():
            if self._is_pixels(name, array):
                self._normalize(array, into=fixed.inputs[name])
            else:
                fixed.inputs[name].update_inplace(_contiguous(array.values))
        self._session.run_with_iobinding(fixed.binding, fixed.options)
        return self._answers(fixed.outputs)

    # -- values -----------------------------------------------------------------------------------------------------

    def _value(self, name: str, array: Array) -> Any:
        if self._is_pixels(name, array):
            return self._normalize(array)
        values = _contiguous(array.values)
        if array.datatype == "BF16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values, _BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(values, *self._device)

    def _is_pixels(self, name: str, array: Array) -> bool:
        return self._normalizer is not None and name == self._pixels and array.datatype == "UINT8"

    def _key(self, inputs: Mapping[str, Array]) -> Key:
        return tuple(sorted((name, self._datatype(name, array), array.values.shape) for name, array in inputs.items()))

    def _datatype(self, name: str, array: Array) -> str:
        """What the model sees, which is what a graph is found by."""
        return "normalized" if name == self._pixels else array.datatype

    def _normalize(self, array: Array, into: Any = None) -> Any:
        binding = self._normalizer.io_binding()
        binding.bind_ortvalue_input(
            INPUT, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array.values), *self._device)
        )
        if into is None:
            binding.bind_output(OUTPUT, *self._device)
        else:
            binding.bind_ortvalue_output(OUTPUT, into)
        self._normalizer.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _answers(self, values: Sequence[Any]) -> dict[str, Array]:
        return {name: _from_value(value) for name, value in zip(self._outputs, values, strict=True)}

    def _options(self, graph: str = "") -> Any:
        """Options of a run, None where the defaults do."""
        entries = {"memory.enable_memory_arena_shrinkage": self._shrink, _GRAPH_ID: graph}
        if not any(entries.values()):
            return None
        options = ort.RunOptions()
        for key, value in entries.items():
            if value:
                options.add_run_config_entry(key, value)
        return options


def _contiguous(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """numpy's own makes a scalar a vector."""
    return np.ascontiguousarray(values).reshape(values.shape)


def _numpy(datatype: str) -> Any:
    from ..core.tensor import NUMPY_DTYPES

    return NUMPY_DTYPES[datatype].type


def _from_value(value: Any) -> Array:
    """The elements of an OrtValue in host memory; BF16 is copied bit by bit."""
    if value.data_type() != "tensor(bfloat16)":
        values: npt.NDArray[Any] = value.numpy()
        return Array(datatype_of(values.dtype), values)
    shape = tuple(value.shape())
    if not prod(shape):
        return Array("BF16", np.empty(shape, dtype=np.uint16))
    bits = (ctypes.c_uint16 * prod(shape)).from_address(value.data_ptr())
    return Array("BF16", np.frombuffer(bits, dtype=np.uint16).reshape(shape).copy())
