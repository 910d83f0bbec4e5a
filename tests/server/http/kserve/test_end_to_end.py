"""The dialect on the real data plane: a repository on disk, real workers, the real client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from jitney.server.http.engine.listener import Listener
from jitney.server.lifecycle.model_control import ModelControl
from jitney.server.repository.triton.repository import TritonRepository
from jitney.server.serving.deployment import Options
from jitney.server.settings.addresses import Address
from jitney.tests.fakes.kserve_app import kserve_app
from jitney.tests.fakes.plane import LoadedPlane

CONFIG: dict[str, Any] = {
    "name": "doubler",
    "backend": "python",
    "max_batch_size": 4,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]}],
    "dynamic_batching": {"max_queue_delay_microseconds": 50_000},
    "instance_group": [{"kind": "KIND_CPU"}],
}
MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            if (x < 0).any():
                error = pb_utils.TritonError("negative", pb_utils.TritonError.INVALID_ARG)
                answers.append(pb_utils.InferenceResponse(error=error))
            else:
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", FACTOR * x)]))
        return answers
"""
CONFIG_TEXT = """
name: "doubler" backend: "python" max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 50000 }
instance_group [ { kind: KIND_CPU } ]
"""


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[triton.InferenceServerClient]:
    folder = tmp_path / "doubler" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL.replace("FACTOR", "2"))
    (tmp_path / "doubler" / "config.pbtxt").write_text(CONFIG_TEXT)
    plane = LoadedPlane()
    repository = TritonRepository([tmp_path])
    plane.control.attach(repository=ModelControl(plane.registry, repository, plane, Options(), "explicit"))
    app = kserve_app(plane, 1 << 20, control=plane.control)
    address = Address("http", "127.0.0.1", 0)
    listener = Listener(app, address, name="e2e", threads=16, max_body=1 << 20, refuse=lambda path, error: ("500", [], b""))
    listener.start()
    try:
        with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{listener.address.port}", concurrency=8)) as client:
            yield client
    finally:
        listener.close(5)
        plane.close(10)
        plane.control.close()
        repository.close()


def tensor(array: Any) -> triton.InferInput:
    x = np.array(array, np.float32)
    found = triton.InferInput("X", list(x.shape), "FP32")
    found.set_data_from_numpy(x)
    return found


def ask(remote: triton.InferenceServerClient, array: Any) -> Any:
    return remote.infer("doubler", [tensor(array)]).as_numpy("Y").tolist()


def test_a_model_from_load_to_unload(remote: triton.InferenceServerClient) -> None:
    assert not remote.is_model_ready("doubler")
    remote.load_model("doubler")
    assert remote.is_model_ready("doubler", "1")
    assert remote.get_model_metadata("doubler")["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, -1]}]
    assert remote.get_model_config("doubler")["max_batch_size"] == 4
    assert ask(remote, [[1, 2], [3, 4]]) == [[2, 4], [6, 8]]
    with pytest.raises(InferenceServerException, match=r"\[400\] negative"):
        ask(remote, [[-1, 2]])
    with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
        ask(remote, [[1]] * 5)
    (statistics,) = remote.get_inference_statistics("doubler")["model_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == (3, 2)
    remote.unload_model("doubler")
    with pytest.raises(InferenceServerException, match=r"\[404\] .* 'doubler' has no available versions"):
        ask(remote, [[1]])
    assert remote.get_model_repository_index()[0]["state"] in ("UNAVAILABLE", "UNLOADING")


def test_requests_of_several_clients_fill_a_batch(remote: triton.InferenceServerClient) -> None:
    remote.load_model("doubler")
    asked = [remote.async_infer("doubler", [tensor([[value]])]) for value in range(4)]
    assert [pending.get_result().as_numpy("Y").tolist() for pending in asked] == [[[2 * value]] for value in range(4)]
    (statistics,) = remote.get_inference_statistics("doubler")["model_stats"]
    assert statistics["inference_count"] == 4
    assert statistics["execution_count"] < 4
    assert sum(entry["compute_infer"]["count"] for entry in statistics["batch_stats"]) == statistics["execution_count"]


def test_a_load_with_uploaded_files_and_one_that_fails(remote: triton.InferenceServerClient) -> None:
    tripled = MODEL.replace("FACTOR", "3").encode()
    remote.load_model("doubler", config=json.dumps(CONFIG), files={"file:1/model.py": tripled})
    assert ask(remote, [[1]]) == [[3]]
    with pytest.raises(InferenceServerException, match="max_batch_size"):
        remote.load_model("doubler", config=json.dumps(CONFIG | {"max_batch_size": -1}))
    assert ask(remote, [[1]]) == [[3]]
    with pytest.raises(
        InferenceServerException, match=r"\[400\] failed to load 'nope', failed to poll from model repository"
    ):
        remote.load_model("nope")
