"""Real models of a `worker_group` behind the real data plane: what they share, and what stays their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from jitney.core.errors import InvalidConfig, WorkerDied
from jitney.core.model_config import InstanceGroup, ModelConfig
from jitney.server.process import sandbox
from jitney.server.serving.deployment import Deployment, Options
from jitney.server.serving.model_cache import ModelCache
from jitney.server.serving.on_demand import OnDemandDeployment
from jitney.tests.fakes.plane import LoadedPlane, first, loaded, rows
from jitney.tools.bench.served import wait_until
from jitney.tools.dev.many_models import name_of, write_models

PATIENCE = 60.0
GROUP = 'parameters { key: "worker_group" value { string_value: "small" } }\n'
ON_DEMAND = 'parameters { key: "load" value { string_value: "on_demand" } }\n'
SCRIPT = """platform: "pytorch_libtorch" max_batch_size: 8 dynamic_batching {} instance_group [ { kind: KIND_CPU count: 1 } ]
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


def ask(plane: LoadedPlane, number: int) -> float:
    return first(plane.infer(name_of(number), None, rows(1.0, width=4)).result(PATIENCE))[0]


def workers_of(plane: LoadedPlane) -> dict[str, list[int]]:
    return {
        deployment.config.name: [worker.pid for worker in deployment.workers()]
        for deployment in plane.registry.deployments()
    }


def the_process(plane: LoadedPlane) -> psutil.Process:
    (pid,) = {pid for pids in workers_of(plane).values() for pid in pids}
    return psutil.Process(pid)


class Triple(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * x


def script(repository: Path, name: str, extra: str = GROUP) -> None:
    """x → 3x, as TorchScript."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(SCRIPT + extra)
    torch.jit.trace(Triple(), torch.zeros(1, 4)).save(repository / name / "1" / "model.pt")  # type: ignore[no-untyped-call]


def add(repository: Path, number: int, extra: str) -> None:
    path = repository / name_of(number) / "config.pbtxt"
    path.write_text(path.read_text() + extra)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_models(tmp_path, 3, group="small")
    return tmp_path


@pytest.fixture
def plane(repository: Path) -> Iterator[LoadedPlane]:
    with loaded(repository) as found:
        yield found


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_models_of_two_frameworks_answer_from_one_process(repository: Path) -> None:
    script(repository, "triple")
    with loaded(repository) as plane:
        assert [ask(plane, number) for number in range(3)] == [0.0, 4.0, 8.0]
        assert first(plane.infer("triple", None, rows(2.0, width=4)).result(PATIENCE)) == [6.0]
        process = the_process(plane)
        assert process.is_running()
        assert [plane.statistics(name_of(number))[0].success.count for number in range(3)] == [1, 1, 1]


def test_all_at_once_from_many_threads_each_gets_its_own_answers(plane: LoadedPlane) -> None:
    wrong: list[float] = []

    def client(number: int) -> None:
        for value in range(200):
            call = plane.infer(name_of(number), None, rows(float(value), width=4))
            if first(call.result(PATIENCE)) != [4.0 * number * value]:
                wrong.append(value)

    threads = [threading.Thread(target=client, args=(n % 3,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_whose_file_is_broken_fails_alone(repository: Path) -> None:
    (repository / name_of(1) / "1" / "model.onnx").write_bytes(b"this is no model")
    with loaded(repository) as plane:
        states = {entry.name: (entry.state, entry.reason) for entry in plane.index()}
        assert states[name_of(1)][0] == "UNAVAILABLE" and "model.onnx cannot be loaded" in states[name_of(1)][1]
        assert [ask(plane, number) for number in (0, 2)] == [0.0, 8.0]
        assert len({pid for pids in workers_of(plane).values() for pid in pids}) == 1


def test_a_python_model_in_a_group_is_refused_with_what_is_allowed(repository: Path) -> None:
    (repository / "p" / "1").mkdir(parents=True)
    (repository / "p" / "1" / "model.py").write_text("class TritonPythonModel: pass\n")
    (repository / "p" / "config.pbtxt").write_text(
        'backend: "python" input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]\n' + GROUP
    )
    with loaded(repository) as plane:
        reasons = {entry.name: entry.reason for entry in plane.index()}
        assert "Models of ONNX Runtime, TorchScript and torch.export can share one" in reasons["p"]
        assert ask(plane, 1) == 4.0


def test_when_the_process_is_killed_all_are_ready_again_and_no_request_is_lost(plane: LoadedPlane) -> None:
    outcomes: list[bool] = []
    stop = threading.Event()

    def client(number: int) -> None:
        while not stop.is_set():
            try:
                outcomes.append(ask(plane, number) == 4.0 * number)
            except WorkerDied:  # the second process may be gone in the middle of the same batch
                outcomes.append(True)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        process = the_process(plane)
        process.kill()
        process.wait(PATIENCE)
        wait_until(lambda: all(d.ready for d in plane.registry.deployments()), PATIENCE, "all models to be ready")
        assert [ask(plane, number) for number in range(3)] == [0.0, 4.0, 8.0]
    stop.set()
    for thread in threads:
        thread.join()
    assert outcomes and all(outcomes)


def test_a_reload_starts_the_new_version_beside_the_old_one_and_leaves_the_others_alone(
    repository: Path, plane: LoadedPlane
) -> None:
    before = the_process(plane)
    other = repository / name_of(2) / "1" / "model.onnx"
    target = repository / name_of(1) / "1" / "model.onnx"
    target.write_bytes(other.read_bytes())
    for _ in range(3):
        plane.load(name_of(1))
        assert [ask(plane, number) for number in range(3)] == [0.0, 8.0, 8.0]
        assert the_process(plane) == before
    assert all(worker.restarts == 0 for d in plane.registry.deployments() for worker in d.workers())


def enlarge(repository: Path) -> None:
    """Gives model 1 weights of 160 MB, which it sums up."""
    from onnx import TensorProto, helper, numpy_helper, save

    large = np.ones((4, 10_000_000), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("ReduceSum", ["z", "axes"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        initializer=[numpy_helper.from_array(large, "w"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, repository / name_of(1) / "1" / "model.onnx")
    config = repository / name_of(1) / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 3 ]", "dims: [ 1 ]"))


def test_unloading_gives_the_weights_back(repository: Path) -> None:
    enlarge(repository)
    with loaded(repository) as plane:
        assert ask(plane, 1) == 4e7
        process = the_process(plane)
        assert process.memory_info().rss > 160e6
        loaded_bytes = process.memory_info().rss
        plane.unload(name_of(1))
        wait_until(lambda: process.memory_info().rss < loaded_bytes - 150e6, PATIENCE, "the memory to be given back")
        assert [ask(plane, number) for number in (0, 2)] == [0.0, 8.0]
        for number in (0, 2):
            plane.unload(name_of(number))
        wait_until(lambda: not process.is_running(), PATIENCE, "the process to end with its last model")


def test_a_model_for_which_the_process_may_not_have_the_memory_fails_alone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlarge(repository)
    monkeypatch.setenv(sandbox.VARIABLE, "")  # which is what it is again afterwards
    sandbox.announce(sandbox.WorkerLimits(memory=250 << 20))
    with loaded(repository) as plane:
        states = {entry.name: entry.state for entry in plane.index()}
        assert states == {name_of(0): "READY", name_of(1): "UNAVAILABLE", name_of(2): "READY"}
        assert [ask(plane, number) for number in (0, 2)] == [0.0, 8.0]
        assert all(
            worker.restarts == 0 for number in (0, 2) for worker in plane.registry.deployment(name_of(number)).workers()
        )


# -- on demand


def on_demand(plane: LoadedPlane, number: int) -> OnDemandDeployment:
    found: Deployment = plane.registry.deployment(name_of(number))
    assert isinstance(found, OnDemandDeployment)
    return found


def test_a_cold_model_answers_at_once_where_its_group_has_a_process(repository: Path) -> None:
    add(repository, 1, ON_DEMAND + 'parameters { key: "idle_timeout_s" value { string_value: "0.2" } }\n')
    with loaded(repository) as plane:
        process = the_process(plane)
        for _ in range(3):
            began = time.monotonic()
            assert ask(plane, 1) == 4.0
            assert time.monotonic() - began < 1
            assert workers_of(plane)[name_of(1)] == [process.pid]
            wait_until(lambda: not on_demand(plane, 1).is_loaded, PATIENCE, "the model to be unloaded")
        assert [ask(plane, number) for number in (0, 2)] == [0.0, 8.0]


def test_the_process_counts_for_each_model_with_its_part(repository: Path) -> None:
    for number in range(3):
        add(repository, number, ON_DEMAND)
    with loaded(repository, options=Options(models=ModelCache())) as plane:
        for number in range(3):
            ask(plane, number)
        process = the_process(plane)
        seats = [on_demand(plane, number).seats()[0] for number in range(3)]
        assert [(seat.pid, seat.sharers) for seat in seats] == [(process.pid, 3)] * 3
        whole = process.memory_info().rss
        assert all(on_demand(plane, n).workers()[0].memory_bytes < 0.4 * whole for n in range(3))


def test_an_instance_on_a_gpu_is_refused_when_it_is_registered_though_it_loads_on_demand() -> None:
    config = ModelConfig("m", "1", "onnxruntime", worker_group="g", instance_groups=(InstanceGroup(kind="KIND_GPU"),))
    with pytest.raises(InvalidConfig, match="only models on the CPU can share a process"):
        OnDemandDeployment(config, Options(gpus=(0,)))
