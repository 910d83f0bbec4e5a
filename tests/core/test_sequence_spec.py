"""What `sequence_batching` means for scheduler and workers."""

from __future__ import annotations

from typing import Any

import pytest

from jitney.core.errors import InvalidConfig, InvalidRequest
from jitney.core.model_config import ModelConfig, TensorSpec, Warmup, WarmupInput
from jitney.core.sequence_spec import SequenceControl, SequenceSpec, for_worker


def config(rows: int = 8, **sequence: Any) -> ModelConfig:
    return ModelConfig("m", "1", "python", max_batch_size=rows, inputs=(TensorSpec("X", "FP32", (1,)),), sequence=sequence)


def control(name: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "control": [{"kind": f"CONTROL_SEQUENCE_{kind}", **values}]}


def test_the_default_is_direct_with_a_slot_for_each_row_and_a_second_of_patience() -> None:
    found = SequenceSpec.of(config())
    assert (found.strategy, found.slots, found.idle, found.delay, found.utilization) == ("direct", 8, 1.0, 0.0, 0.0)
    assert SequenceSpec.of(config(rows=0)).slots == 1


def test_the_strategies_options() -> None:
    direct = {"max_queue_delay_microseconds": 500, "minimum_slot_utilization": 0.5}
    found = SequenceSpec.of(config(direct=direct, max_sequence_idle_microseconds=250_000))
    assert (found.strategy, found.delay, found.utilization, found.idle) == ("direct", 0.0005, 0.5, 0.25)
    oldest = {
        "max_candidate_sequences": 3,
        "preferred_batch_size": [2, 4],
        "max_queue_delay_microseconds": 7,
        "preserve_ordering": True,
    }
    found = SequenceSpec.of(config(oldest=oldest))
    assert (found.strategy, found.slots, found.preferred, found.preserve_ordering) == ("oldest", 3, (2, 4), True)
    assert SequenceSpec.of(config(oldest={})).slots == 8


def test_controls_and_their_values() -> None:
    controls = [
        control("S", "START", int32_false_true=[0, 1], fp32_false_true=[]),
        control("E", "END", fp32_false_true=[-1.5, 2]),
        control("R", "READY", bool_false_true=[False, True]),
        control("C", "CORRID", data_type="TYPE_STRING"),
    ]
    assert SequenceSpec.of(config(control_input=controls)).controls == (
        SequenceControl("S", "START", "INT32", (0, 1)),
        SequenceControl("E", "END", "FP32", (-1.5, 2)),
        SequenceControl("R", "READY", "BOOL", (False, True)),
        SequenceControl("C", "CORRID", "BYTES"),
    )


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("UINT64", [1, 2**64 - 1], ["x", -1, 2**64]),
        ("INT64", [2**63 - 1], ["x", 2**63]),
        ("UINT32", [2**32 - 1], [2**32]),
        ("INT32", [2**31 - 1], [2**31]),
        ("STRING", ["x", 7, 2**64 - 1], []),
    ],
)
def test_an_id_fits_the_models_input(datatype: str, good: list[Any], bad: list[Any]) -> None:
    found = SequenceSpec.of(config(control_input=[control("C", "CORRID", data_type=f"TYPE_{datatype}")]))
    for sequence in good:
        found.check_id("m", sequence)
    for sequence in bad:
        with pytest.raises(InvalidRequest, match=f"does not fit model 'm': expected an integer .* 'C' is {datatype}"):
            found.check_id("m", sequence)
    SequenceSpec.of(config()).check_id("m", "anything")


def state(**values: Any) -> dict[str, Any]:
    return {"input_name": "I", "output_name": "O", "data_type": "TYPE_FP32", "dims": [-1, 2], **values}


def test_states_have_a_first_value() -> None:
    (plain,) = SequenceSpec.of(config(state=[state()])).states
    assert (plain.input, plain.output, plain.datatype, plain.dims, plain.initial_dims) == ("I", "O", "FP32", (-1, 2), (1, 2))
    initial = {"name": "i", "data_type": "TYPE_FP32", "dims": [5, 2], "data_file": "file"}
    (filed,) = SequenceSpec.of(config(state=[state(initial_state=[initial])])).states
    assert (filed.initial_dims, filed.file) == ((5, 2), "file")


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([state(initial_state=[{"data_type": "TYPE_FP32", "dims": [-1, 2], "data_file": "f"}])], "needs dims without -1"),
        ([state(initial_state=[{"data_type": "TYPE_FP32"}, {"data_type": "TYPE_FP32"}])], "expected one"),
        ([state(initial_state=[{"data_type": "TYPE_INT8"}])], "must be FP32 like the state"),
        ([state(input_name="X")], "state 'X' of model 'm' needs a name that no other input has"),
        ([state(), state(input_name="J")], "each its own"),
        ([state(), state(output_name="P")], "state 'I' of model 'm' needs a name"),
    ],
)
def test_states_that_cannot_work(states: list[Any], text: str) -> None:
    with pytest.raises(InvalidConfig, match=text):
        SequenceSpec.of(config(state=states))


def test_a_worker_sees_controls_and_states_as_tensors() -> None:
    given = config(control_input=[control("S", "START", int32_false_true=[0, 1])], state=[state()])
    warmup = (Warmup("w", 1, (WarmupInput("X", "FP32", (1,)),)),)
    found = for_worker(ModelConfig(**{**vars(given), "warmup": warmup}), SequenceSpec.of(given))
    assert [(spec.name, spec.dims) for spec in found.inputs] == [("X", (1,)), ("S", (1,)), ("I", (-1, 2))]
    assert [spec.name for spec in found.outputs] == ["O"]
    assert [(tensor.name, tensor.dims) for tensor in found.warmup[0].inputs] == [("X", (1,)), ("S", (1,)), ("I", (1, 2))]


def test_a_model_without_sequences_has_no_spec() -> None:
    with pytest.raises(ValueError, match="no sequence_batching"):
        SequenceSpec.of(ModelConfig("m", "1", "python"))
