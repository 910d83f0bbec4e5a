"""Driving a tensor backend in a test: configurations, requests from arrays, answers as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jitney.backends.base import Backend
from jitney.backends.factory import create
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Instance, Request, Response
from jitney.core.tensor import Tensor


def spec(name: str, *dims: int, datatype: str = "FP32", **fields: Any) -> TensorSpec:
    return TensorSpec(name, datatype, dims, **fields)


def config(
    folder: Path, backend: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], rows: int = 32, **fields: Any
) -> ModelConfig:
    """A model in `folder` whose files lie in the folder itself."""
    return ModelConfig(
        name="m",
        version="1",
        backend=backend,
        directory=str(folder),
        version_directory=str(folder),
        max_batch_size=rows,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        **fields,
    )


def loaded(model: ModelConfig, gpu: int | None = None) -> Backend:
    """The model's backend, loaded for one thread."""
    backend = create(model)
    backend.load(model, Instance("m_0", "KIND_CPU" if gpu is None else "KIND_GPU", gpu, threads=1))
    return backend


def request(outputs: Sequence[str] = (), **arrays: npt.NDArray[Any]) -> Request:
    """A request with these tensors; rows = the first tensor's leading size."""
    tensors = [Tensor.from_numpy(name, array) for name, array in arrays.items()]
    return Request(tensors=tensors, outputs=tuple(outputs), rows=tensors[0].shape[0])


def answers(backend: Backend, requests: Sequence[Request]) -> list[Response]:
    """Executes one batch; checks that each request got exactly one final response."""
    got: dict[int, Response] = {}

    def respond(index: int, response: Response) -> None:
        assert response.final
        assert index not in got, f"request {index} was answered twice"
        got[index] = response

    backend.execute(requests, respond)
    assert sorted(got) == list(range(len(requests)))
    return [got[index] for index in range(len(requests))]


def arrays(response: Response) -> Mapping[str, npt.NDArray[Any]]:
    """The outputs of one response; fails with its error where it has one."""
    assert response.error is None, response.error
    return {tensor.name: np.array(tensor.numpy()) for tensor in response.tensors}
