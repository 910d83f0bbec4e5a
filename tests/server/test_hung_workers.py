"""Models that hang, with real workers: who asked is told, the process is replaced, and nobody else suffers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jitney.core.errors import ModelFailed, WorkerDied, WorkerTimeout
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.serving.worker_deployment import WorkerDeployment
from jitney.tests.fakes.serving import Serving, serving, write_model
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0
LIMIT = 1.0

#: Answers with its process id after `x` seconds; below 0 it stops itself.
SLEEPS = """
import os, signal, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            seconds = float(pb_utils.get_input_tensor_by_name(request, "x").as_numpy().ravel()[0])
            if seconds < 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(max(0, seconds))
            out = np.array([[os.getpid()]], np.int64)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", out)]))
        return responses
"""

#: Answers once, then with a second response after `x` seconds, or never.
STREAMS = """
import os, signal, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            seconds = float(pb_utils.get_input_tensor_by_name(request, "x").as_numpy().ravel()[0])
            sender = request.get_response_sender()
            out = np.array([[os.getpid()]], np.int64)
            for _ in range(2):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", out)]))
                if seconds < 0:
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(seconds)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

#: Passes its input on to the model named by the parameter `of`, and answers with its own process id.
ASKS = """
import json, os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.of = json.loads(args["model_config"])["parameters"]["of"]["string_value"]

    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x")
            inner = pb_utils.InferenceRequest(model_name=self.of, requested_output_names=["y"], inputs=[x]).exec()
            out = [pb_utils.Tensor("y", np.array([[os.getpid()]], np.int64))]
            responses.append(pb_utils.InferenceResponse(out, inner.error() if inner.has_error() else None))
        return responses
"""

ENSEMBLE = """platform: "ensemble" max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 1 ] } ]
ensemble_scheduling { step [
  { model_name: "%s" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }
] }
"""


def config(limit: float = LIMIT, more: str = "", **parameters: str) -> str:
    given = {"response_timeout": str(limit), **parameters}
    lines = "".join(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in given.items())
    return f"""backend: "python" max_batch_size: 4
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_INT64 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
{lines}{more}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "sleeps", config(), SLEEPS)
    write_model(folder, "slow", config(60), SLEEPS)
    write_model(folder, "stateful", config(more="sequence_batching { max_sequence_idle_microseconds: 60000000 }"), SLEEPS)
    write_model(folder, "streams", config(more="model_transaction_policy { decoupled: true }"), STREAMS)
    write_model(folder, "asks_sleeps", config(of="sleeps"), ASKS)
    write_model(folder, "asks_slow", config(of="slow"), ASKS)
    write_model(folder, "asks_itself", config(of="asks_itself"), ASKS)
    write_model(folder, "asks_ensemble", config(of="ensemble_of_slow"), ASKS)
    write_model(folder, "asks_in_a_circle", config(of="ensemble_of_the_circle"), ASKS)
    for name, step in (("sleeps", "sleeps"), ("slow", "slow"), ("the_circle", "asks_in_a_circle")):
        write_model(folder, f"ensemble_of_{name}", ENSEMBLE % step, "")
    names = [path.name for path in folder.iterdir()]
    with serving(folder, *names) as served:
        yield served


def x(seconds: float) -> list[Tensor]:
    return [Tensor.from_numpy("x", np.array([[seconds]], np.float32))]


def pid_of(responses: list[Response]) -> int:
    return int(responses[0].tensors[0].numpy()[0, 0])


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def workers(served: Serving, model: str) -> list[int]:
    return [worker.pid for worker in served.dataplane.registry.deployment(model).workers() if worker.pid]


def hangs(served: Serving, model: str, kind: type[Exception] = WorkerTimeout, **parameters: Any) -> str:
    """Makes the model hang; what the client is told, which must not take long."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        served.ask(model, x(-1), **parameters)
    assert LIMIT <= time.monotonic() - began < LIMIT + 5
    return f"{getattr(caught.value, 'context', '')}{caught.value}"


@pytest.mark.parametrize("model", ["sleeps", "streams"])
def test_who_waits_for_a_hung_worker_is_told_and_another_takes_its_place(served: Serving, model: str) -> None:
    before = pid_of(served.ask(model, x(0)))
    assert f"of model '{model}' did not answer within 1 s (response_timeout)" in hangs(served, model)
    wait_until(lambda: gone(before), PATIENCE, "the end of the process")
    assert pid_of(served.ask(model, x(0))) != before


def test_a_stream_may_take_longer_than_the_limit_as_long_as_something_comes(served: Serving) -> None:
    before = workers(served, "streams")
    assert len(served.ask("streams", x(0.8 * LIMIT))) == 3
    assert workers(served, "streams") == before


def test_a_sequence_on_a_hung_worker_ends_and_the_next_one_is_served(served: Serving) -> None:
    assert "did not answer within 1 s" in hangs(served, "stateful", triton_sequence_id=1, triton_flags=1)
    with pytest.raises(WorkerDied):
        served.ask("stateful", x(0), triton_sequence_id=1)
    assert served.ask("stateful", x(0), triton_sequence_id=2, triton_flags=3)


def test_an_ensemble_is_told_which_step_hung(served: Serving) -> None:
    assert "in ensemble 'ensemble_of_sleeps', worker" in hangs(served, "ensemble_of_sleeps")
    assert served.ask("ensemble_of_sleeps", x(0))


def test_of_a_model_that_asks_one_that_hangs_only_the_latter_is_replaced(served: Serving) -> None:
    asking = workers(served, "asks_sleeps")
    told = hangs(served, "asks_sleeps", ModelFailed)
    assert "of model 'sleeps' did not answer within 1 s" in told
    assert workers(served, "asks_sleeps") == asking
    wait_until(lambda: served.dataplane.model_ready("sleeps"), PATIENCE, "the other model's next worker")
    assert pid_of(served.ask("asks_sleeps", x(0))) == asking[0]


@pytest.mark.parametrize("model", ["asks_slow", "asks_ensemble"])
def test_the_time_of_another_model_is_not_the_asking_one_s(served: Serving, model: str) -> None:
    asking = workers(served, model)
    assert pid_of(served.ask(model, x(2.5 * LIMIT))) == asking[0]


@pytest.mark.parametrize("model", ["asks_itself", "asks_in_a_circle"])
def test_models_that_wait_for_each_other_in_a_circle_are_told(served: Serving, model: str) -> None:
    before = workers(served, model)
    assert "no worker took the request within 1 s" in hangs(served, model, ModelFailed)
    assert workers(served, model) == before


@pytest.mark.parametrize("busy", [False, True])
def test_a_stopped_worker_does_not_survive_scaling_to_none(tmp_path: Path, busy: bool) -> None:
    write_model(tmp_path, "m", config(600), SLEEPS)
    with serving(tmp_path, "m") as served:
        (pid,) = workers(served, "m")
        stop(served, pid, busy)
        deployment = served.dataplane.registry.deployment("m")
        assert isinstance(deployment, WorkerDeployment)
        deployment.scale(0)
        wait_until(lambda: gone(pid), 5, "the end of the process")


@pytest.mark.parametrize("busy", [False, True])
def test_a_stopped_worker_does_not_survive_unloading(tmp_path: Path, busy: bool) -> None:
    write_model(tmp_path, "m", config(600), SLEEPS)
    with serving(tmp_path, "m") as served:
        (pid,) = workers(served, "m")
        stop(served, pid, busy)
        served.dataplane.unload("m")
        wait_until(lambda: gone(pid), 5, "the end of the process")


def stop(served: Serving, pid: int, busy: bool) -> None:
    """Stops a worker, with a request in its hands if it is to be `busy`."""
    if busy:
        served.dataplane.infer("m", None, Request(tensors=x(-1)))
    else:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, PATIENCE, "the process to stop")
