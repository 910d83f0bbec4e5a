"""Ensembles: their own data flow, and their fit to the models they name."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.server.repository.triton.ensembles import connect, dependencies
from jitney.tests.fakes.repository import Folder

Steps = list[tuple[str, dict[str, str], dict[str, str]]]


def config(steps: Steps, inputs: str = "X", outputs: str = "Y", extra: str = "") -> str:
    tensors = [f"input [ {{ name: '{name}' data_type: TYPE_FP32 dims: 1 }} ]" for name in inputs]
    tensors += [f"output [ {{ name: '{name}' data_type: TYPE_FP32 dims: 1 }} ]" for name in outputs]
    return "\n".join(['platform: "ensemble"', *tensors, extra, "ensemble_scheduling {", *map(step_text, steps), "}"])


def step_text(step: tuple[str, dict[str, str], dict[str, str]]) -> str:
    model, inputs, outputs = step
    maps = [f"input_map {{ key: '{key}' value: '{value}' }}" for key, value in inputs.items()]
    maps += [f"output_map {{ key: '{key}' value: '{value}' }}" for key, value in outputs.items()]
    return f"step {{ model_name: '{model}' model_version: -1 {' '.join(maps)} }}"


CHAIN: Steps = [("a", {"i": "X"}, {"o": "mid"}), ("b", {"i": "mid"}, {"o": "Y"})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (config([]), "must specify 'step' for ensemble 'e'"),
        (config([("", {"i": "X"}, {"o": "Y"})]), "must specify 'model_name' in step 0 of ensemble 'e'"),
        (config([*CHAIN, ("c", {}, {"o": "Z"})]), "must specify 'input_map' in step 2 of ensemble 'e'"),
        (config([*CHAIN, ("c", {"i": "X"}, {})]), "must specify 'output_map' in step 2 of ensemble 'e'"),
        (
            config([*CHAIN, ("c", {"i": "X"}, {"o": "mid"})]),
            "ensemble tensor 'mid' can appear in an output map only once for ensemble 'e' step 2",
        ),
        (config(CHAIN, inputs="XZ"), "ensemble input 'Z' for ensemble e' is not used"),
        (config(CHAIN, outputs="YZ"), "ensemble output 'Z' for ensemble e' is not used"),
        (config([*CHAIN, ("c", {"i": "X"}, {"o": "Z"})]), "ensemble tensor 'Z' is unused in ensemble 'e'"),
        (
            config([("a", {"i": "X", "j": "lost"}, {"o": "Y"})]),
            "output 'Y' for ensemble 'e' is not written: at least one of its depending tensors, 'lost', is not connected",
        ),
        (
            config([("a", {"i": "X", "j": "Y"}, {"o": "mid"}), ("b", {"i": "mid"}, {"o": "Y"})]),
            "output 'Y' for ensemble 'e' is not written: at least one of its depending tensors, 'mid', is not connected",
        ),
        (
            config(CHAIN, extra="instance_group { kind: KIND_CPU }"),
            "instance group should not be specified for ensemble 'e'",
        ),
        (config(CHAIN, extra="optimization { }"), "optimization should not be specified for ensemble 'e'"),
        (config(CHAIN, extra="model_warmup { }"), "model_warmup can not be specified for ensemble 'e'"),
        (
            config(CHAIN).replace('platform: "ensemble"', 'backend: "python"'),
            "ensemble scheduling cannot be set for model 'e' whose platform is not ensemble",
        ),
    ],
)
def test_a_data_flow_that_cannot_be_run_is_refused(folder: Folder, text: str, reason: str) -> None:
    folder.model("e", text, {"1/model.py": ""})
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:\d+: " + re.escape(reason)):
        folder.read("e", auto_complete=False)


@pytest.fixture
def ensemble(folder: Folder) -> ModelConfig:
    folder.model("e", config(CHAIN), {"1/.keep": ""})
    return folder.read("e")


def model(name: str, datatype: str = "FP32", dims: tuple[int, ...] = (1,), **fields: object) -> ModelConfig:
    inputs, outputs = (TensorSpec("i", datatype, dims),), (TensorSpec("o", datatype, dims),)
    return ModelConfig(name, "1", "python", **{"inputs": inputs, "outputs": outputs, **fields})  # type: ignore[arg-type]


def test_an_ensemble_has_no_instances_and_names_its_models(ensemble: ModelConfig) -> None:
    assert (ensemble.backend, ensemble.instance_groups, ensemble.filename) == ("ensemble", (), "")
    assert dependencies(ensemble) == [("a", ""), ("b", "")]
    assert dependencies(model("a")) == []


def test_fitting_steps_connect_and_shapes_may_be_variable(ensemble: ModelConfig) -> None:
    connected = connect(ensemble, [model("a", dims=(-1,)), model("b", dims=(-1,))])
    assert not connected.decoupled
    assert connected.config_json["model_transaction_policy"] == {"decoupled": False}


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            [model("a", "INT32"), model("b")],
            "in ensemble e, ensemble tensor X: inconsistent data type: TYPE_FP32 is inferred from model e while "
            "TYPE_INT32 is inferred from model a",
        ),
        (
            [model("a"), model("b", dims=(1, 2))],
            "in ensemble e, ensemble tensor mid: inconsistent shape: [1] is inferred from model a while "
            "[1,2] is inferred from model b",
        ),
        (
            [model("a", inputs=(TensorSpec("z", "FP32", (1,)),)), model("b")],
            "in ensemble e, ensemble tensor X is mapping to non-existing input i in model a",
        ),
        (
            [model("a", outputs=(TensorSpec("z", "FP32", (1,)),)), model("b")],
            "in ensemble e, ensemble tensor mid is mapped from non-existing output o in model a",
        ),
        (
            [model("a", inputs=(TensorSpec("i", "FP32", (1,)), TensorSpec("j", "FP32", (1,)))), model("b")],
            "in ensemble e, input j in model a is not mapped to any ensemble tensors",
        ),
    ],
)
def test_steps_that_do_not_fit_are_refused(ensemble: ModelConfig, steps: list[ModelConfig], reason: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(reason)):
        connect(ensemble, steps)


def test_optional_inputs_of_a_step_may_be_left_out(ensemble: ModelConfig) -> None:
    inputs = (TensorSpec("i", "FP32", (1,)), TensorSpec("j", "FP32", (1,), optional=True))
    assert connect(ensemble, [model("a", inputs=inputs), model("b")]).name == "e"


def test_a_batching_ensemble_fits_models_with_and_without_a_batch_axis(folder: Folder) -> None:
    folder.model("e", "max_batch_size: 8 " + config(CHAIN), {"1/.keep": ""})
    ensemble = folder.read("e")
    without_axis = model("b", dims=(-1, 1))
    assert connect(ensemble, [model("a", max_batch_size=8), without_axis]).max_batch_size == 8
    with pytest.raises(
        InvalidConfig, match=r"ensemble e allows maximum batch size 8, but it contains model a which only allows"
    ):
        connect(ensemble, [model("a", max_batch_size=4), without_axis])


def test_an_ensemble_is_decoupled_when_a_step_is(ensemble: ModelConfig) -> None:
    connected = connect(ensemble, [model("a", decoupled=True), model("b")])
    assert connected.decoupled and connected.config_json["model_transaction_policy"] == {"decoupled": True}


def test_answers_of_two_decoupled_models_do_not_meet_in_a_step(folder: Folder) -> None:
    steps: Steps = [
        ("a", {"i": "X"}, {"o": "one"}),
        ("b", {"i": "X"}, {"o": "two"}),
        ("c", {"i": "one", "j": "two"}, {"o": "Y"}),
    ]
    folder.model("e", config(steps), {"1/.keep": ""})
    both = (TensorSpec("i", "FP32", (1,)), TensorSpec("j", "FP32", (1,)))
    ensemble, last = folder.read("e"), model("c", inputs=both)
    assert not connect(ensemble, [model("a"), model("b"), last]).decoupled
    reason = "in ensemble e, step of model 'c' receives inputs originated from different decoupled models"
    with pytest.raises(InvalidConfig, match=re.escape(reason)):
        connect(ensemble, [model("a", decoupled=True), model("b"), last])


def test_a_long_chain_written_backwards_is_checked_quickly(folder: Folder) -> None:
    names = ["X", *(f"t{number}" for number in range(2000)), "Y"]
    steps = [("a", {"i": source}, {"o": target}) for source, target in pairwise(names)]
    folder.model("e", config(steps[::-1]), {"1/.keep": ""})
    assert len(dependencies(folder.read("e"))) == 2001
