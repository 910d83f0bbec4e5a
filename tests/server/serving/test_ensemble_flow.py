"""What flows through an ensemble: shapes across batching and non-batching models, what is left out, sequences, needed steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.errors import InvalidTensor, JitneyError, ModelFailed
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor, reshaped
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.ensemble_flow import Flowing, Membership, Step, entering, for_step, leaving, needed
from jitney.tests.fakes.plane import loaded

PATIENCE = 20.0


def model(batch: int, dims: tuple[int, ...], **more: Any) -> ModelConfig:
    spec = TensorSpec("X", "FP32", dims, **more)
    return ModelConfig("m", "1", "python", max_batch_size=batch, inputs=(spec,), outputs=(spec,))


def tensor(*shape: int) -> Tensor:
    return Tensor.from_numpy("X", np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("shape", "rows", "batch", "dims", "wanted"),
    [
        ((3,), 0, 8, (-1,), (1, 3)),  # a batch axis of 1 is put before
        ((3, 4), 0, 8, (3, 4), (1, 3, 4)),
        ((2, 3), 0, 8, (3,), (2, 3)),  # the maker's first axis is the taker's batch axis
        ((1, 3), 1, 0, (-1,), (3,)),  # one of 1 is taken away
        ((1, 3), 1, 0, (-1, 3), (1, 3)),  # … unless the taker declares it
        ((4, 3), 4, 0, (-1, 3), (4, 3)),  # a whole batch is one tensor of a taker that declares the axis
        ((2, 3), 2, 0, (-1,), (2, 3)),  # does not fit: its model refuses it
        ((2, 3), 2, 8, (3,), (2, 3)),
        ((3,), 0, 0, (-1,), (3,)),
    ],
)
def test_batch_axes_come_and_go_between_models(
    shape: tuple[int, ...], rows: int, batch: int, dims: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    given = for_step(Flowing(tensor(*shape), rows), "X", model(batch, dims))
    assert given is not None
    assert given.shape == wanted
    answered = leaving(model(batch, dims), "X", Flowing(tensor(*shape), rows), 1 if batch else 0)
    assert answered is not None
    assert answered.shape == wanted


def test_an_ensembles_own_reshape_is_applied_on_both_ways() -> None:
    config = model(4, (6,), reshape=(2, 3))
    request = Request(tensors=[tensor(2, 6)], rows=2)
    found = entering(config, request)["X"]
    assert found.tensor is not None
    assert (found.tensor.shape, found.rows) == ((2, 2, 3), 2)
    answered = leaving(config, "X", found, 2)
    assert answered is not None
    assert answered.shape == (2, 6)
    other = leaving(config, "X", Flowing(tensor(2, 5), 2), 2)
    assert other is not None
    assert other.shape == (2, 5), "what does not fit stays as its step made it"
    assert reshaped((5, 7, 2), 1, (-1, 2), (2, -1)) == (5, 2, 7)


def test_optional_inputs_that_were_left_out_are_known_to_be() -> None:
    config = model(0, (1,), optional=True)
    assert entering(config, Request()) == {"X": Flowing(None, 0)}
    assert for_step(Flowing(None, 0), "X", config) is None
    assert leaving(config, "X", Flowing(None, 0), 0) is None
    assert entering(model(0, (1,)), Request()) == {}


@pytest.mark.parametrize("sequence", [7, "seven", 2**63, 0, ""])
@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_a_requests_sequence_is_what_its_response_says(sequence: int | str, flags: int) -> None:
    given = {"other": 1.5} | {k: v for k, v in {"triton_sequence_id": sequence, "triton_flags": flags}.items() if v}
    found = Membership.of_request(Request(parameters=given))
    assert found.for_request({"other": 1.5, "triton_flags": 3}) == given
    wanted = {"sequence_id": sequence or 0, "sequence_start": bool(flags & 1), "sequence_end": bool(flags & 2)}
    assert found.for_response() == wanted


def test_a_steps_response_may_name_another_sequence() -> None:
    own = Membership(7, 1)
    assert own.of_response(Response(parameters={"else": 1}), "m") == own
    assert own.of_response(Response(parameters={"sequence_id": "b"}), "m") == Membership("b", 0)
    assert own.of_response(Response(parameters={"sequence_end": True}), "m") == Membership(7, 2)
    for wrong in ({"sequence_id": 1.5}, {"sequence_start": 1}):
        with pytest.raises(ModelFailed, match="model 'm': expected parameter 'sequence_") as caught:
            own.of_response(Response(parameters=wrong), "m")
        assert caught.value.code == "INVALID_ARG"


def test_steps_that_nobody_needs_are_not_run() -> None:
    def step(model: str, inputs: str, outputs: str) -> Step:
        return Step(model, None, {name: name for name in inputs.split()}, {name: name for name in outputs.split()})

    a, b, c, d = step("a", "IN", "t"), step("b", "t", "u"), step("c", "t IN2", "v w"), step("d", "u v", "x")
    steps = (a, b, c, d)
    assert needed(steps, ["x", "w"]) == [a, b, c, d]
    assert needed(steps, ["u"]) == [a, b]
    assert needed(steps, ["w"]) == [a, c]
    assert needed(steps, ["IN"]) == []


# -- with models that run

#: Y = X + 1 in the shape that came; no Y where X is missing. Says which sequence it was given, where it is told to.
SOURCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "X")
        return pb_utils.InferenceResponse([] if x is None else [pb_utils.Tensor("Y", x.as_numpy() + 1)])
"""
TENSOR = '{{ name: "{}" data_type: TYPE_FP32 dims: {} {} }}'


def write_model(folder: Path, name: str, batch: int, optional: str = "", dims: str = "[ -1 ]") -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(SOURCE)
    (folder / name / "config.pbtxt").write_text(
        f'backend: "python" max_batch_size: {batch} input [ {TENSOR.format("X", dims, optional)} ] '
        f"output [ {TENSOR.format('Y', dims, '')} ] instance_group [ {{ kind: KIND_CPU }} ]"
    )


def write_ensemble(folder: Path, name: str, batch: int, inputs: str, outputs: str, *steps: str, optional: str = "") -> None:
    """Steps are written `model IN OUT`."""
    (folder / name / "1").mkdir(parents=True)
    text = [f'platform: "ensemble" max_batch_size: {batch}']
    text += [f"input {TENSOR.format(each, '[ -1 ]', optional)}" for each in inputs.split()]
    text += [f"output {TENSOR.format(each, '[ -1 ]', '')}" for each in outputs.split()]
    parts = [step.split() for step in steps]
    text += ["ensemble_scheduling {"]
    text += [
        f'step {{ model_name: "{name}" model_version: -1 input_map {{ key: "X" value: "{given}" }} '
        f'output_map {{ key: "Y" value: "{made}" }} }}'
        for name, given, made in parts
    ]
    (folder / name / "config.pbtxt").write_text("\n".join([*text, "}"]))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "eight", 8)
    write_model(folder, "none", 0)
    write_model(folder, "rows", 0, dims="[ -1, -1 ]")
    write_model(folder, "maybe", 8, "optional: true")
    write_ensemble(folder, "none_over_eight", 0, "IN", "OUT", "eight IN OUT")
    write_ensemble(folder, "eight_over_none", 8, "IN", "OUT", "none IN OUT")
    write_ensemble(folder, "mixed", 8, "X", "Y", "eight X a", "none a b", "eight b c", "none c Y")
    write_ensemble(folder, "mixed_none", 0, "IN", "OUT", "none IN a", "eight a b", "none b OUT")
    write_ensemble(folder, "whole_batch", 8, "IN", "OUT", "rows IN OUT")
    write_ensemble(folder, "nested", 0, "IN", "OUT", "mixed IN a", "none a OUT")
    write_ensemble(folder, "branches", 8, "A B", "C D", "maybe A C", "eight B D", optional="optional: true")
    write_ensemble(folder, "passed_on", 8, "A B", "C D", "maybe A t", "maybe t C", "maybe B D", optional="optional: true")
    with loaded(folder) as plane:
        assert not [entry for entry in plane.index() if entry.reason]
        yield plane


def ask(plane: DataPlane, name: str, wanted: tuple[str, ...] = (), hidden: Any = None, **arrays: Any) -> Response:
    tensors = [Tensor.from_numpy(key, np.array(value, np.float32)) for key, value in arrays.items()]
    request = Request(tensors=tensors, outputs=wanted, parameters=hidden or {})
    return plane.infer(name, None, request).result(PATIENCE)


def values(response: Response) -> dict[str, Any]:
    return {tensor.name: tensor.numpy().tolist() for tensor in response.tensors}


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("none_over_eight", [1, 2, 3], [2, 3, 4]),
        ("eight_over_none", [[1, 2, 3]], [[2, 3, 4]]),
        ("mixed_none", [1, 2], [4, 5]),
        ("whole_batch", [[1, 2], [3, 4]], [[2, 3], [4, 5]]),
        ("nested", [1, 2], [6, 7]),
    ],
)
def test_ensembles_across_models_with_and_without_a_batch_axis(plane: DataPlane, name: str, given: Any, wanted: Any) -> None:
    assert values(ask(plane, name, IN=given)) == {"OUT": wanted}


def test_a_batch_axis_comes_and_goes_from_step_to_step(plane: DataPlane) -> None:
    assert values(ask(plane, "mixed", X=[[1, 2]])) == {"Y": [[5, 6]]}


def test_a_batch_for_a_model_without_a_batch_axis_is_refused_by_that_model(plane: DataPlane) -> None:
    with pytest.raises(InvalidTensor, match="unexpected shape for input 'X' for model 'none'") as caught:
        ask(plane, "eight_over_none", IN=[[1], [2]])
    assert caught.value.context == "in ensemble 'eight_over_none', "


def test_optional_inputs_left_out(plane: DataPlane) -> None:
    assert values(ask(plane, "branches", ("D",), B=[[1]])) == {"D": [[2]]}
    assert values(ask(plane, "branches", B=[[1]])) == {"D": [[2]]}  # `maybe` has nothing to answer
    assert values(ask(plane, "branches", A=[[1]], B=[[2]])) == {"C": [[2]], "D": [[3]]}
    assert values(ask(plane, "branches", ("C",), A=[[1]])) == {"C": [[2]]}  # `eight`, which needs B, is not run
    with pytest.raises(JitneyError, match="expected 1 inputs but got 0 inputs for model 'eight'"):
        ask(plane, "branches", A=[[1]])
    assert values(ask(plane, "passed_on", B=[[1]])) == {"D": [[2]]}  # an output that did not come is an input left out
    assert values(ask(plane, "passed_on")) == {}


@pytest.mark.parametrize("sequence", [7, "seven"])
def test_the_sequence_of_a_request_is_in_the_response(plane: DataPlane, sequence: int | str) -> None:
    hidden = {"triton_sequence_id": sequence, "triton_flags": 1}
    wanted = {"sequence_id": sequence, "sequence_start": True, "sequence_end": False}
    assert ask(plane, "mixed", hidden=hidden, X=[[1]]).parameters == wanted
    assert ask(plane, "nested", hidden=hidden, IN=[1]).parameters == wanted
    none = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
    assert ask(plane, "mixed", X=[[1]]).parameters == none
