"""Whether the server says that requests should be sent to it, while its models' workers come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.server.serving.worker_deployment import WorkerDeployment
from jitney.tests.fakes.plane import DOUBLING
from jitney.tests.fakes.serving import Serving, serving, write_model
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0
CONFIG = """backend: "python" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { kind: KIND_CPU count: %d } ]
"""
CHAIN = """platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
  { model_name: "one" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }
] }
"""


def held(folder: Path) -> str:
    """The doubling model, which does not finish loading while the file `hold` exists."""
    wait = f"while os.path.exists({str(folder / 'hold')!r}): time.sleep(0.01)\n"
    return "import os, time\n" + wait + DOUBLING


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    write_model(tmp_path, "one", CONFIG % 1, held(tmp_path))
    write_model(tmp_path, "two", CONFIG % 2, held(tmp_path))
    write_model(tmp_path, "chain", CHAIN, "")
    with serving(tmp_path, "one", "two", "chain") as served:
        served.dataplane.started = True
        yield served
        (tmp_path / "hold").unlink(missing_ok=True)


def status(served: Serving, model: str = "") -> int:
    path = f"/v2/models/{model}/ready" if model else "/v2/health/ready"
    return int(served.http.simulate_get(path).status_code)


def deployment(served: Serving, model: str) -> WorkerDeployment:
    found = served.dataplane.registry.deployment(model)
    assert isinstance(found, WorkerDeployment)
    return found


def kill(served: Serving, model: str, count: int) -> None:
    pids = [worker.pid for worker in deployment(served, model).workers()][:count]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    left = len(deployment(served, model).workers()) - count
    wait_until(lambda: deployment(served, model).pool.ready() == left, PATIENCE, "the workers' end")


def test_while_a_model_s_only_worker_is_being_replaced_the_server_is_not_ready(served: Serving, tmp_path: Path) -> None:
    assert [status(served), status(served, "one"), status(served, "chain")] == [200, 200, 200]
    (tmp_path / "hold").touch()
    kill(served, "one", 1)
    assert [status(served), status(served, "one"), status(served, "chain")] == [400, 400, 400]
    assert status(served, "two") == 200
    (tmp_path / "hold").unlink()
    wait_until(lambda: status(served) == 200, PATIENCE, "the next worker")
    assert [status(served, "one"), status(served, "chain")] == [200, 200]


def test_one_living_worker_is_enough(served: Serving, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    kill(served, "two", 1)
    assert [status(served), status(served, "two")] == [200, 200]


def test_without_strict_readiness_the_server_is_ready_whatever_its_models_are(served: Serving, tmp_path: Path) -> None:
    served.dataplane.strict_readiness = False
    (tmp_path / "hold").touch()
    kill(served, "one", 1)
    assert [status(served), status(served, "one")] == [200, 400]


def test_what_was_scaled_to_none_or_unloaded_is_no_reason_to_send_requests_elsewhere(served: Serving) -> None:
    deployment(served, "two").scale(0)
    assert [status(served), status(served, "two")] == [200, 400]
    served.dataplane.unload("two")
    assert status(served) == 200
