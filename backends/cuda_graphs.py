"""`CudaGraphs`: a model's kernels recorded once for each batch size and started with one call.

A graph has fixed shapes and fixed addresses: inputs are copied into its own tensors, its outputs lie where they lay when it was
captured, and are valid until the next replay. Graphs are captured while the model loads, from warm-up's batches, and never on
a live request: a shape that was not captured runs as it would without graphs. All graphs of a worker share one memory pool,
which is sound because they run one after the other and nothing outlives a batch. Warm-up runs the largest batch first, so that
the smaller ones' graphs fit into what its graph has taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .memory import is_out_of_memory
from .staging import new_stream
from .telling import text_of

Forward = Callable[[dict[str, Any]], dict[str, Any]]
Key = tuple[tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...]], ...]

#: Runs before a capture: cuDNN and TorchScript choose and compile in the first ones.
WARM_UP_RUNS = 3


class CannotCapture(RuntimeError):
    """The model does something that a graph cannot hold: it looks at values, allocates on the host, or gives no tensors."""


@dataclass(slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, Any]


class CudaGraphs:
    """One for each worker. `forward` must do the same for the same shapes, on the current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Key, _Graph] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, inputs: dict[str, Any], forward: Forward, capture: bool) -> dict[str, Any]:
        """The outputs of `forward(inputs)`, by a graph where there is one; `capture` makes one where there is none."""
        key = key_of(inputs)
        graph = None if key is None else self._graphs.get(key)
        if graph is None:
            if key is None or not capture:
                return forward(inputs)
            graph = self._graphs[key] = self._captured(inputs, forward)
        for name, tensor in graph.inputs.items():
            tensor.copy_(inputs[name], non_blocking=True)
        graph.graph.replay()
        return graph.outputs

    def _captured(self, inputs: Mapping[str, torch.Tensor], forward: Forward) -> _Graph:
        fixed = {name: tensor.clone() for name, tensor in inputs.items()}
        try:
            self._warm_up(fixed, forward)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = forward(fixed)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CannotCapture(
                f"the model cannot run as a CUDA graph, set cuda_graphs to false: {_reason(error)}"
            ) from error
        if not all(isinstance(value, torch.Tensor) for value in outputs.values()):
            raise CannotCapture(
                "a model with outputs that are no tensors cannot run as a CUDA graph, set cuda_graphs to false"
            )
        self._pool = self._pool or graph.pool()
        return _Graph(graph, fixed, outputs)

    def _warm_up(self, inputs: dict[str, torch.Tensor], forward: Forward) -> None:
        """On a stream of its own, as captures want it."""
        stream = new_stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                forward(inputs)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)


def _reason(error: BaseException) -> str:
    """What the model did. Ending a capture that has failed raises an error of its own, which says only that it has failed."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    first = text_of(error).split("\n", 1)[0]
    return first if isinstance(error, RuntimeError) and first else f"{type(error).__name__}: {first}"


def key_of(inputs: Mapping[str, Any]) -> Key | None:
    """What a graph is found by; None where an input is no tensor."""
    if not all(isinstance(value, torch.Tensor) for value in inputs.values()):
        return None
    described = ((name, value.dtype, tuple(value.shape), value.stride()) for name, value in inputs.items())
    return tuple(sorted(described, key=lambda item: item[0]))
