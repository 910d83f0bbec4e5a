"""Control tensors and implicit state around a real ONNX model, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from jitney.backends.factory import create
from jitney.backends.sequence import SequenceBackend
from jitney.core.model_config import ModelConfig, TensorSpec, Warmup, WarmupInput
from jitney.core.request import Instance, Request, Respond, Response
from jitney.core.tensor import Tensor

START, END = 1, 2


def accumulator(path: Path, batch: Any) -> None:
    """SUM = READY * (X + SUM_IN * (1 - START)); Y = SUM and END and CORRID side by side."""
    shape = [batch, 1] if batch else [1]
    kinds = {"X": TensorProto.FLOAT, "SUM_IN": TensorProto.FLOAT, "CORRID": TensorProto.INT64}
    names = ("X", "START", "READY", "END", "SUM_IN", "CORRID")
    inputs = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape) for name in names]
    wide = [batch, 3] if batch else [3]
    outputs = [
        helper.make_tensor_value_info("Y", TensorProto.FLOAT, wide),
        helper.make_tensor_value_info("SUM", TensorProto.FLOAT, shape),
    ]
    nodes = [
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Sub", ["one", "START"], ["goes_on"]),
        helper.make_node("Mul", ["SUM_IN", "goes_on"], ["before"]),
        helper.make_node("Add", ["X", "before"], ["after"]),
        helper.make_node("Mul", ["after", "READY"], ["SUM"]),
        helper.make_node("Cast", ["CORRID"], ["corrid"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["SUM", "END", "corrid"], ["Y"], axis=-1),
    ]
    graph = helper.make_graph(nodes, "accumulator", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def control(name: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"name": name, "control": [{"kind": f"CONTROL_SEQUENCE_{kind}", "data_type": "TYPE_INVALID", **values}]}


CONTROLS = [
    control("START", "START", fp32_false_true=[0, 1]),
    control("READY", "READY", fp32_false_true=[0, 1]),
    control("END", "END", fp32_false_true=[0, 1]),
    control("CORRID", "CORRID", data_type="TYPE_INT64"),
]
STATES = [{"input_name": "SUM_IN", "output_name": "SUM", "data_type": "TYPE_FP32", "dims": [1], "initial_state": []}]


@pytest.fixture
def backend(tmp_path: Path, request: pytest.FixtureRequest) -> SequenceBackend:
    strategy, rows = request.param
    accumulator(tmp_path / "model.onnx", "N" if rows else 0)
    config = ModelConfig(
        "m",
        "1",
        "onnxruntime",
        directory=str(tmp_path),
        version_directory=str(tmp_path),
        filename="model.onnx",
        max_batch_size=rows,
        inputs=(TensorSpec("X", "FP32", (1,)),),
        outputs=(TensorSpec("Y", "FP32", (3,)),),
        sequence={strategy: {}, "control_input": CONTROLS, "state": STATES},
        warmup=(Warmup("w", 1, (WarmupInput("X", "FP32", (1,)),)),),
    )
    made = create(config)
    assert isinstance(made, SequenceBackend)
    made.host = cast(Any, None)  # an ONNX model asks nothing of its server
    made.load(config, Instance("m_0_0"))
    return made


def ask(backend: SequenceBackend, *requests: tuple[int, float, int], outputs: tuple[str, ...] = ()) -> list[Response]:
    """Runs one batch of (slot, x, flags); the sequence's id is its slot + 100."""
    lead = (1,) if backend.model.batches else ()
    given = [
        Request(
            tensors=[Tensor.from_numpy("X", np.full((*lead, 1), x, np.float32))],
            parameters={"triton_slot": slot, "triton_flags": flags, "triton_sequence_id": slot + 100},
            outputs=outputs,
        )
        for slot, x, flags in requests
    ]
    answers: dict[int, Response] = {}
    backend.execute(given, answers.__setitem__)
    return [answers[index] for index in range(len(given))]


def rows(responses: Sequence[Response]) -> list[list[float]]:
    for response in responses:
        assert response.error is None, response.error
        assert [tensor.name for tensor in response.tensors] == ["Y"], "the state stays in the worker"
    return [response.tensors[0].numpy().reshape(-1).tolist() for response in responses]


@pytest.mark.parametrize("backend", [("direct", 4), ("oldest", 4)], indirect=True)
def test_states_stay_apart_by_slot(backend: SequenceBackend) -> None:
    assert rows(ask(backend, (0, 1, START), (2, 10, START))) == [[1, 0, 100], [10, 0, 102]]
    assert rows(ask(backend, (0, 2, 0), (2, 20, END), outputs=("Y",))) == [[3, 0, 100], [30, 1, 102]]
    assert rows(ask(backend, (2, 5, START))) == [[5, 0, 102]]
    assert rows(ask(backend, (0, 3, 0), (1, 7, START), (2, 1, 0))) == [[6, 0, 100], [7, 0, 101], [6, 0, 102]]
    assert all(nanoseconds >= 0 for nanoseconds in backend.durations)
    assert backend.durations[1] > 0


@pytest.mark.parametrize("backend", [("direct", 0)], indirect=True)
def test_a_model_without_a_batch_axis(backend: SequenceBackend) -> None:
    assert rows(ask(backend, (0, 1, START))) == [[1, 0, 100]]
    assert rows(ask(backend, (0, 2, 0))) == [[3, 0, 100]]


@pytest.mark.parametrize("backend", [("direct", 4)], indirect=True)
def test_controls_and_states_are_writable_as_clients_tensors_are(
    backend: SequenceBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of torch may work in place, and would otherwise write into constants of the interpreter."""
    seen: dict[str, bool] = {}
    run = backend._inner.execute

    def note(requests: Sequence[Request], respond: Respond) -> None:
        seen.update({tensor.name: tensor.numpy().flags.writeable for each in requests for tensor in each.tensors})
        run(requests, respond)

    monkeypatch.setattr(backend._inner, "execute", note)
    for flags in (START, 0):
        ask(backend, (0, 1, flags))
        assert {name for name, writable in seen.items() if writable} == {"START", "READY", "END", "CORRID", "SUM_IN"}


@pytest.mark.parametrize(("backend", "size"), [(("direct", 4), 3), (("oldest", 4), 1)], indirect=["backend"])
def test_direct_fills_empty_slots(backend: SequenceBackend, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    run = backend._inner.execute
    monkeypatch.setattr(
        backend._inner,
        "execute",
        lambda requests, respond: (
            seen.append([float(request.tensor("READY").numpy().item()) for request in requests]),
            run(requests, respond),
        ),
    )
    assert rows(ask(backend, (2, 1, START))) == [[1, 0, 102]]
    assert seen == [[0.0] * (size - 1) + [1.0]]
