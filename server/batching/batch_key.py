"""What a request may be batched with: those whose tensors a backend could glue to its own. Pure."""

from __future__ import annotations

from collections.abc import Hashable

from ...core.model_config import ModelConfig
from ...core.request import Request


class BatchKeys:
    """Of one model's requests: the names of their inputs, the datatypes, and the shapes without the batch axis.

    The shape of an input with `allow_ragged_batch` does not count (Triton). Where the configuration leaves a request no choice,
    all have the key None.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._uniform = bool(config.inputs) and not any(-1 in spec.dims or spec.optional for spec in config.inputs)
        self._ragged = frozenset(spec.name for spec in config.inputs if spec.ragged)
        self._start = 1 if config.batches else 0

    def key(self, request: Request) -> Hashable:
        if self._uniform or not request.tensors:
            return None
        return tuple(
            [
                (tensor.name, tensor.datatype, None if tensor.name in self._ragged else tensor.shape[self._start :])
                for tensor in request.tensors
            ]
        )
