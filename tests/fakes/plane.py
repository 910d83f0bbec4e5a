"""The real data plane over a folder of models, with real worker processes and without HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from jitney.core.call import Call
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.ipc.io_context import IoContext
from jitney.server.lifecycle.bls import BlsHost
from jitney.server.lifecycle.control_plane import ControlPlane
from jitney.server.lifecycle.model_control import ModelControl
from jitney.server.repository.triton.repository import TritonRepository
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.deployment import Options
from jitney.server.serving.registry import IndexEntry, Registry

#: Doubles its input; a value of -1 fails the request that brought it, and sleeps as long as the config's parameter says.
DOUBLING = """
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.seconds = float(parameters.get("seconds", {"string_value": "0"})["string_value"])

    def execute(self, requests):
        time.sleep(self.seconds)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if (x == -1).any():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("poisoned", pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)])
"""


def doubling(
    repository: Path, name: str, scheduler: str = "", *, dims: str = "2", instances: int = 1, seconds: float = 0
) -> None:
    """Writes the doubling model: float32 rows of `dims`, batches of at most 8."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(DOUBLING)
    (folder / "config.pbtxt").write_text(
        f"""backend: "python" max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "seconds" value {{ string_value: "{seconds}" }} }}
{scheduler}
"""
    )


class LoadedPlane(DataPlane):
    """Both planes of a server in one object, for tests that change what they ask for."""

    def __init__(self, *, strict_readiness: bool = True) -> None:
        super().__init__(Registry(), strict_readiness=strict_readiness)
        self.control = ControlPlane(self.registry)
        self.io = IoContext()

    @property
    def model_control(self) -> ModelControl:
        return self.control.repository

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        self.control.repository.load(model, config_json, files)

    def unload(self, model: str, dependents: bool = False) -> None:
        self.control.repository.unload(model, dependents)

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        return self.control.index(ready_only)


@contextmanager
def loaded(repository: Path, *, mode: str = "explicit", options: Options | None = None) -> Iterator[LoadedPlane]:
    """The planes of a server with every model of the folder; failures to load stay in their index."""
    plane = LoadedPlane(strict_readiness=False)
    models = TritonRepository([repository])
    options = replace(options or Options(), host=BlsHost(plane, plane.control), on_event=None, io=plane.io)
    control = ModelControl(plane.registry, models, plane, options, mode)
    plane.control.attach(repository=control)
    try:
        control.load_all(None, lambda *_: None)
        plane.started = True
        yield plane
    finally:
        plane.close(10.0)
        control.close()
        models.close()


def rows(*values: float, width: int = 2, name: str = "x") -> Request:
    """A request of float32 rows, each filled with one value."""
    array = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    return Request(tensors=[Tensor.from_numpy(name, array)])


def first(response: Response) -> list[float]:
    """The first column of the only output."""
    column: list[float] = response.tensors[0].numpy()[:, 0].tolist()
    return column


def sizes(plane: DataPlane, model: str) -> dict[int, int]:
    """Executions by batch size, as the statistics count them."""
    return {size: entry.compute_infer.count for size, entry in plane.statistics(model)[0].batches.items()}


def answers(call: Call, timeout: float) -> Iterator[Response]:
    """A call's responses as its dialect renders them, the final one last; `timeout` seconds apply to each."""
    for response in call.stream(timeout):
        yield call.encode(response) if call.encode is not None else response
