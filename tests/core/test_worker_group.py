from __future__ import annotations

from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import SHARING_BACKENDS, ModelConfig
from jitney.core.worker_group import grouped


def model(backend: Any = "onnxruntime", **parameters: str) -> ModelConfig:
    return ModelConfig("m", "1", backend, parameters=parameters)


@pytest.mark.parametrize("backend", SHARING_BACKENDS)
@pytest.mark.parametrize("name", ["small", "a", "Team-1.v_2", "x" * 64])
def test_models_that_are_data_may_share(backend: str, name: str) -> None:
    assert grouped(model(backend), name).worker_group == name


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "-a", "ä", "x" * 65, "a\n"])
def test_a_group_has_a_plain_name(name: str) -> None:
    with pytest.raises(InvalidConfig, match=r"model 'm' is to be in worker_group .* expected a name of at most 64 letters"):
        grouped(model(), name)


@pytest.mark.parametrize("backend", ["python", "handler", "eager"])
def test_code_may_not_share(backend: str) -> None:
    with pytest.raises(
        InvalidConfig, match=rf"backend is '{backend}'.*ONNX Runtime, TorchScript and torch.export can share"
    ):
        grouped(model(backend), "g")


@pytest.mark.parametrize("backend", ["torchscript", "exported"])
@pytest.mark.parametrize("parameter", ["INTRA_OP_THREAD_COUNT", "NUM_INTEROP_THREADS", "ENABLE_JIT_PROFILING"])
def test_what_torch_sets_for_a_whole_process_is_refused(backend: str, parameter: str) -> None:
    with pytest.raises(InvalidConfig, match=f"has parameter {parameter}, which would hold for all of the process"):
        grouped(model(backend, **{parameter: "1"}), "g")
    assert grouped(model(intra_op_thread_count="2"), "g")
