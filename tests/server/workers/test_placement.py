from __future__ import annotations

from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import InstanceGroup, ModelConfig
from jitney.server.workers.placement import declared, instances


def config(*groups: InstanceGroup, name: str = "reqinfo", **fields: Any) -> ModelConfig:
    return ModelConfig(name, "1", "python", instance_groups=groups or (InstanceGroup(),), **fields)


def places(model: ModelConfig, count: int, gpus: tuple[Any, ...] = (), cores: int = 8, threads: int = 0) -> list[Any]:
    return [(i.name, i.kind, i.gpu, i.threads) for i in instances(model, count, gpus=gpus, cores=cores, threads=threads)]


def test_names_are_tritons() -> None:
    assert [name for name, *_ in places(config(InstanceGroup(count=2)), 2)] == ["reqinfo_0_0", "reqinfo_0_1"]
    two = config(InstanceGroup(count=1), InstanceGroup(name="fast", count=2, kind="KIND_CPU"))
    assert [name for name, *_ in places(two, 3)] == ["reqinfo_0_0", "fast_0", "fast_1"]


def test_auto_is_cpu_without_gpus_and_one_on_each_gpu_with_them() -> None:
    assert places(config(), 1) == [("reqinfo_0_0", "KIND_CPU", None, 8)]
    assert declared(config(), ()) == 1
    assert places(config(), 2, gpus=(0, 1)) == [("reqinfo_0_0", "KIND_GPU", 0, 4), ("reqinfo_0_1", "KIND_GPU", 1, 4)]
    assert declared(config(InstanceGroup(count=3)), (0, 1)) == 6


def test_auto_with_a_gpu_that_is_not_there_is_cpu() -> None:
    assert places(config(InstanceGroup(gpus=(3,))), 1, gpus=(0,))[0][1:3] == ("KIND_CPU", None)


def test_gpu_groups_cover_the_listed_gpus_count_times_each() -> None:
    group = InstanceGroup(count=2, kind="KIND_GPU", gpus=(2, 0))
    assert [gpu for _, _, gpu, _ in places(config(group), 4, gpus=(0, 1, 2))] == [2, 2, 0, 0]
    assert instances(config(group), 1, gpus=(0, 1, 2), cores=1)[0].device == "cuda:2"


def test_gpu_groups_without_their_gpu_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="kind KIND_GPU but no GPUs are available"):
        places(config(InstanceGroup(kind="KIND_GPU")), 1)
    with pytest.raises(InvalidConfig, match=r"wants GPU 4; this machine has \[0\]"):
        places(config(InstanceGroup(kind="KIND_GPU", gpus=(4,))), 1, gpus=(0,))


def test_kind_model_and_cpu_leave_gpus_alone() -> None:
    assert places(config(InstanceGroup(kind="KIND_MODEL")), 1, gpus=(0,))[0][1:3] == ("KIND_MODEL", None)
    assert places(config(InstanceGroup(kind="KIND_CPU")), 1, gpus=(0,))[0][1:3] == ("KIND_CPU", None)


def test_more_workers_than_declared_go_round_the_gpus_with_new_names() -> None:
    """TorchServe: as many workers as were asked for, spread over the GPUs in turn."""
    found = places(config(), 5, gpus=(0, 1))
    assert [gpu for _, _, gpu, _ in found] == [0, 1, 0, 1, 0]
    assert [name for name, *_ in found] == [f"reqinfo_0_{n}" for n in range(5)]


def test_names_never_repeat_with_several_groups() -> None:
    model = config(InstanceGroup(count=2), InstanceGroup(name="other_7", count=1))
    names = [name for name, *_ in places(model, 9)]
    assert len(set(names)) == 9
    assert names[3:6] == ["reqinfo_0_2", "reqinfo_0_3", "other_7_1"]


def test_threads_are_a_share_of_the_cores() -> None:
    assert [t for *_, t in places(config(), 3, cores=8)] == [2, 2, 2]
    assert [t for *_, t in places(config(), 3, cores=2)] == [1, 1, 1]
    assert [t for *_, t in places(config(), 3, cores=2, threads=5)] == [5, 5, 5]


@pytest.mark.parametrize("name", ["INTRA_OP_THREAD_COUNT", "intra_op_thread_count", "NUM_THREADS"])
def test_parameters_set_the_threads(name: str) -> None:
    assert places(config(parameters={name: "3"}), 1, threads=5)[0][3] == 3
    with pytest.raises(InvalidConfig, match=f"{name} must be a positive number, got 'many'"):
        places(config(parameters={name: "many"}), 1)


def test_no_instance_at_all_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="declares no instance"):
        places(config(InstanceGroup(count=0)), 1)
    assert instances(config(), 0, gpus=(), cores=1) == []


def test_instances_of_a_group_share_the_process_of_their_number_and_have_one_thread() -> None:
    model = config(InstanceGroup(count=2, kind="KIND_CPU"), worker_group="small")
    found = instances(model, 3, gpus=(0,), cores=8)
    assert [(i.name, i.shared, i.threads) for i in found] == [
        ("reqinfo_0_0", "small_0", 1),
        ("reqinfo_0_1", "small_1", 1),
        ("reqinfo_0_2", "small_2", 1),
    ]
    assert {i.threads for i in instances(model, 2, gpus=(), cores=8, threads=4)} == {4}
    own = config(InstanceGroup(kind="KIND_CPU"), worker_group="small", parameters={"intra_op_thread_count": "2"})
    assert instances(own, 1, gpus=(), cores=8)[0].threads == 2
    assert instances(config(), 1, gpus=(), cores=8)[0].shared == ""


@pytest.mark.parametrize("kind", ["KIND_GPU", "KIND_AUTO"])
def test_an_instance_on_a_gpu_cannot_share_a_process(kind: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"'reqinfo' is in worker_group 'g'.* on GPU 0: .*Write kind: KIND_CPU"):
        instances(config(InstanceGroup(kind=kind), worker_group="g"), 1, gpus=(0,), cores=8)
