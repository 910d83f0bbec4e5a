"""Ensembles at work: their graphs, and the memory that tensors between their steps live in."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from jitney.core import holding
from jitney.core.call import Call, Target
from jitney.core.errors import Cancelled, Draining, JitneyError, ModelFailed
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request, Response
from jitney.core.tensor import Buffer, Tensor
from jitney.server.ipc.arena import INLINE, Arena, Slot
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.deployment import MakeRequest, OnAnswer, Options
from jitney.server.serving.ensemble import Run
from jitney.server.serving.ensemble_flow import Step
from jitney.server.serving.response_cache import ResponseCache
from jitney.server.serving.worker_deployment import WorkerDeployment
from jitney.tests.fakes.plane import loaded
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0
LARGE = 1 << 18  # elements: 1 MiB
SIZES = (2, INLINE // 4, INLINE // 4 + 1, LARGE)  # elements: the second is the largest that travels in a message

#: Adds `by` to its input in place, as handlers do; -1 fails the request, and a file in `until` is waited for.
ADDING = """
import json, pathlib, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.by = float(parameters["by"]["string_value"])
        self.until = parameters["until"]["string_value"]

    def execute(self, requests):
        while self.until != "-" and not pathlib.Path(self.until).exists():
            time.sleep(0.002)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if x[0, 0] == -1:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("poisoned"))
        x += self.by
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x)])
"""
SUM = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x, z = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "xz")
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x + z)])
"""
CONFIG = """backend: "python" max_batch_size: 4 dynamic_batching {{ }} instance_group [ {{ kind: KIND_CPU }} ]
input [ {inputs} ] output [ {{ name: "y" data_type: TYPE_FP32 dims: -1 }} ]
parameters {{ key: "by" value {{ string_value: "{by}" }} }} parameters {{ key: "until" value {{ string_value: "{until}" }} }}
{extra}
"""


def model(folder: Path, name: str, by: float, *, until: str = "-", extra: str = "") -> None:
    write(folder, name, ADDING, inputs='{ name: "x" data_type: TYPE_FP32 dims: -1 }', by=by, until=until, extra=extra)


def write(folder: Path, name: str, source: str, **fields: Any) -> None:
    (folder / name / "1").mkdir(parents=True, exist_ok=True)
    (folder / name / "1" / "model.py").write_text(source)
    (folder / name / "config.pbtxt").write_text(CONFIG.format(**fields))


def ensemble(folder: Path, name: str, *steps: str, outputs: str = "OUT") -> None:
    """Steps are written `model: INPUT=TENSOR … -> OUTPUT=TENSOR`."""
    (folder / name / "1").mkdir(parents=True)
    given = ",".join(f'{{ name: "{output}" data_type: TYPE_FP32 dims: -1 }}' for output in outputs.split())
    (folder / name / "config.pbtxt").write_text(
        f'platform: "ensemble" max_batch_size: 4 input [ {{ name: "IN" data_type: TYPE_FP32 dims: -1 }} ] '
        f"output [ {given} ] ensemble_scheduling {{ step [ {','.join(map(step_text, steps))} ] }}"
    )


def step_text(step: str) -> str:
    name, inputs, outputs = re.split(": | -> ", step)
    maps = [f"input_map {{ key: '{a}' value: '{b}' }}" for a, b in (pair.split("=") for pair in inputs.split())]
    maps += [f"output_map {{ key: '{a}' value: '{b}' }}" for a, b in (pair.split("=") for pair in outputs.split())]
    return f'{{ model_name: "{name}" model_version: -1 {" ".join(maps)} }}'


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    folder = tmp_path_factory.mktemp("models")
    both = ", ".join(f'{{ name: "{name}" data_type: TYPE_FP32 dims: -1 }}' for name in "xz")
    for name, by in (("one", 1), ("ten", 10), ("hundred", 100)):
        model(folder, name, by)
    model(folder, "gated", 1000, until=str(folder / "gate"))
    model(folder, "kept", 5, extra="response_cache { enable: true }")
    write(folder, "sum", SUM, inputs=both, by=0, until="-", extra="")
    ensemble(folder, "chain", "one: x=IN -> y=a", "ten: x=a -> y=b", "hundred: x=b -> y=OUT")
    ensemble(folder, "seen", "one: x=IN -> y=a", "ten: x=a -> y=OUT", outputs="OUT a")
    ensemble(folder, "fork", "one: x=IN -> y=a", "ten: x=a -> y=b", "hundred: x=a -> y=c", outputs="b c")
    ensemble(folder, "diamond", "one: x=IN -> y=a", "ten: x=a -> y=b", "hundred: x=a -> y=c", "sum: x=b z=c -> y=OUT")
    ensemble(folder, "twice", "one: x=IN -> y=a", "sum: x=a z=a -> y=OUT")
    ensemble(folder, "nested", "one: x=IN -> y=a", "inner: IN=a -> OUT=b", "hundred: x=a -> y=c", "sum: x=b z=c -> y=OUT")
    ensemble(folder, "torn", "ten: x=IN -> y=b", "one: x=IN -> y=a", "hundred: x=a -> y=c", "sum: x=b z=c -> y=OUT")
    ensemble(folder, "inner", "ten: x=IN -> y=i", "ten: x=i -> y=OUT")
    ensemble(folder, "stopped", "one: x=IN -> y=a", "gated: x=a -> y=b", "ten: x=a -> y=c", "sum: x=b z=c -> y=OUT")
    ensemble(folder, "cached", "kept: x=IN -> y=a", "ten: x=a -> y=OUT")
    with loaded(folder, options=Options(cache=ResponseCache(64 << 20))) as plane:
        assert all(plane.model_ready(name) for name in plane.registry.names()), plane.index()
        yield plane
        wait_until(lambda: taken(plane) == {}, PATIENCE, "slots to be given back")


def taken(plane: DataPlane) -> dict[str, int]:
    """Slots in use by model."""
    arenas = {d.config.name: d.arena for d in plane.registry.deployments() if d.arena is not None}
    return {name: arena.slots for name, arena in arenas.items() if arena.slots or arena.used}


def send(plane: DataPlane, name: str, value: float, size: int) -> Call:
    return plane.infer(name, None, Request(tensors=[Tensor.from_numpy("IN", np.full((1, size), value, np.float32))]))


def answers(call: Call, size: int) -> dict[str, float]:
    """The value that all elements of each output have."""
    tensors = {tensor.name: tensor.numpy() for tensor in call.result(PATIENCE).tensors}
    for array in tensors.values():
        assert array.shape == (1, size)
        assert (array == array[0, 0]).all()
    return {name: float(array[0, 0]) for name, array in tensors.items()}


@dataclass
class Copies:
    """Large copies in the server: into arenas by `put`, and out of reply memory into memory of their own."""

    put: list[int] = field(default_factory=list)
    private: list[int] = field(default_factory=list)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    found, put, memory = Copies(), Arena.put, holding.memory

    def counted_put(arena: Arena, *buffers: Buffer) -> Any:
        found.put.extend(memoryview(buffer).nbytes for buffer in buffers)
        return put(arena, *buffers)

    def counted_memory(nbytes: int) -> memoryview:
        found.private.append(nbytes)
        return memory(nbytes)

    monkeypatch.setattr(Arena, "put", counted_put)
    monkeypatch.setattr(holding, "memory", counted_memory)
    return found


GRAPHS = {
    "chain": {"OUT": 111.0},
    "seen": {"OUT": 11.0, "a": 1.0},
    "fork": {"b": 11.0, "c": 101.0},
    "diamond": {"OUT": 112.0},
    "twice": {"OUT": 2.0},
    "nested": {"OUT": 122.0},
    "cached": {"OUT": 15.0},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_compute_what_they_say_at_every_size(plane: DataPlane, graph: str, size: int) -> None:
    factor = 2 if graph in ("diamond", "twice", "nested") else 1  # where two branches are summed
    calls = [send(plane, graph, float(value), size) for value in range(8)]
    for value, call in enumerate(calls):
        assert answers(call, size) == {name: added + factor * value for name, added in GRAPHS[graph].items()}
    wait_until(lambda: taken(plane) == {}, PATIENCE, "slots to be given back")


def test_a_large_tensor_between_steps_is_copied_once(plane: DataPlane, copies: Copies) -> None:
    assert answers(send(plane, "chain", 1.0, LARGE), LARGE) == {"OUT": 112.0}
    assert copies.put == [4 * LARGE], "only the ensemble's input is put into an arena"
    assert copies.private == [4 * LARGE], "only the ensemble's output gets memory of its own"


def test_a_second_taker_costs_one_copy_more(plane: DataPlane, copies: Copies) -> None:
    assert answers(send(plane, "fork", 1.0, LARGE), LARGE) == {"b": 12.0, "c": 102.0}
    assert copies.put == [4 * LARGE, 4 * LARGE]
    assert copies.private == [4 * LARGE, 4 * LARGE]


def test_what_the_client_wants_too_gets_memory_of_its_own(plane: DataPlane, copies: Copies) -> None:
    assert answers(send(plane, "seen", 1.0, LARGE), LARGE) == {"OUT": 12.0, "a": 2.0}
    assert copies.put == copies.private == [4 * LARGE, 4 * LARGE]


def test_a_cached_output_is_no_memory_of_the_next_step(plane: DataPlane, copies: Copies) -> None:
    """The next step changes its input in place; the cache must not see that, nor what comes after in that place."""
    for value in (40.0, 41.0, 40.0, 41.0):
        assert answers(send(plane, "cached", value, LARGE), LARGE) == {"OUT": value + 15}
    assert len(copies.private) == 2 + 4, "two outputs were kept, and each of the four answers given"


def test_an_error_in_the_middle_frees_everything(plane: DataPlane) -> None:
    for graph in ("chain", "torn"):  # in the second, the other branch has its tensor in the arena of `sum`
        calls = [send(plane, graph, value, LARGE) for value in (-2.0, 5.0, -2.0)]  # `one` makes -1 of -2, which is refused
        for call in (calls[0], calls[2]):
            with pytest.raises(ModelFailed, match="poisoned") as caught:
                call.result(PATIENCE)
            assert caught.value.context == f"in ensemble '{graph}', "
        assert answers(calls[1], LARGE) == {"OUT": 116.0 if graph == "chain" else 121.0}
        wait_until(lambda: taken(plane) == {}, PATIENCE, "slots to be given back")


def test_a_cancelled_run_frees_its_memory_when_its_steps_are_over(plane: DataPlane) -> None:
    gate = Path(plane.config("gated").parameters["until"])
    calls = [send(plane, "stopped", float(value), LARGE) for value in range(6)]
    wait_until(lambda: "sum" in taken(plane), PATIENCE, "a branch to wait for the other")
    for call in calls[:3]:
        assert call.cancel()
    gate.touch()
    for value, call in enumerate(calls):
        if value < 3:
            with pytest.raises(Cancelled):
                call.result(PATIENCE)
        else:
            assert answers(call, LARGE) == {"OUT": 1012.0 + 2 * value}
    wait_until(lambda: taken(plane) == {}, PATIENCE, "slots to be given back")


def test_a_model_reloaded_under_load_fails_no_run(tmp_path: Path) -> None:
    model(tmp_path, "one", 1)
    model(tmp_path, "ten", 10)
    ensemble(tmp_path, "chain", "one: x=IN -> y=a", "ten: x=a -> y=b", "one: x=b -> y=OUT")
    with loaded(tmp_path) as plane:
        arenas, stop, wrong = [], threading.Event(), list[str]()

        def ask(number: int) -> None:
            while not stop.is_set():
                try:
                    if (found := answers(send(plane, "chain", float(number), LARGE), LARGE)) not in (
                        {"OUT": number + 12.0},
                        {"OUT": number + 22.0},
                    ):
                        wrong.append(str(found))
                except JitneyError as error:
                    wrong.append(repr(error))

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        for client in clients:
            client.start()
        for by in (20, 10, 20, 10):
            arenas.append(plane.registry.deployment("ten").arena)
            model(tmp_path, "ten", by)
            plane.load("ten")
        stop.set()
        for client in clients:
            client.join()
        assert not wrong
        assert len(set(map(id, arenas))) == 4, "each load has an arena of its own"
        wait_until(lambda: taken(plane) == {} and not any(a.slots for a in arenas if a), PATIENCE, "slots to be given back")


def test_a_refused_request_gives_the_memory_back_as_it_was_placed(tmp_path: Path) -> None:
    """A model that stops between the check and the queue: its successor is asked with the same data."""
    model(tmp_path, "one", 1)
    with loaded(tmp_path) as plane:
        deployment = plane.registry.deployment("one")
        assert isinstance(deployment, WorkerDeployment)
        view = deployment.arena.place(4 * LARGE)
        assert view is not None
        view[:] = bytes([7]) * len(view)
        deployment.dispatcher.close()
        with pytest.raises(Draining):
            deployment.submit(Request(tensors=[Tensor("x", "FP32", (1, LARGE), view)]))
        assert deployment.arena.slots == 1
        assert set(view) == {7}
        deployment.arena.reclaim(view)
        assert deployment.arena.slots == 0


# -- by hand: what the models do is the test's to say


@dataclass
class Sent:
    make: MakeRequest
    on_answer: OnAnswer
    target: Target

    def tensors(self, arena: Arena | None) -> list[Buffer]:
        """What the step would hand to a deployment with this arena."""
        deployment = SimpleNamespace(arena=arena, config=ModelConfig("step", "1", "python"))
        return [tensor.data for tensor in self.make(deployment).tensors]  # type: ignore[arg-type]

    def answer(self, output: str, data: Buffer) -> None:
        self.on_answer(Response([Tensor(output, "UINT8", (len(data),), data)]))

    def place(self, output: str, content: bytes) -> memoryview:
        view = self.target(output, len(content))
        assert view is not None
        view[:] = content
        return view


class Hands:
    """`Models` that do nothing by themselves."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.arenas: dict[str, Arena | None] = {}
        self.on_step: Callable[[str], None] = lambda model: None

    def step(self, model: str, version: str | None, make: MakeRequest, on_answer: OnAnswer, target: Target) -> Call:
        self.sent[model] = Sent(make, on_answer, target)
        self.on_step(model)
        return Call(Request())

    def arena(self, model: str, version: str | None) -> Arena | None:
        return self.arenas.get(model)

    def model_ready(self, model: str, version: str | None = None) -> bool:
        return True


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(64 << 20)
    yield arena
    assert arena.slots == 0
    arena.close()


CONTENT = bytes(range(256)) * 64


def begin(hands: Hands, *steps: Step) -> Call:
    taken = {name for step in steps for name in step.inputs.values()}
    written = [name for step in steps for name in step.outputs.values() if name not in taken]
    config = ModelConfig("e", "1", "ensemble", outputs=tuple(TensorSpec(name, "UINT8", (-1,)) for name in written))
    call = Call(Request(tensors=[Tensor("IN", "UINT8", (1,), b"i")]), config)
    Run(config, steps, call, hands).advance()
    return call


def step(model: str, inputs: str, output: str) -> Step:
    return Step(model, None, {f"x{n}": name for n, name in enumerate(inputs.split())}, {"y": output})


def test_a_replaced_taker_copies_and_what_was_placed_is_freed(arena: Arena) -> None:
    hands, successor = Hands(), Arena(64 << 20)
    hands.arenas["b"] = arena
    call = begin(hands, step("a", "IN", "t"), step("b", "t", "OUT"))
    hands.sent["a"].answer("y", hands.sent["a"].place("y", CONTENT))
    (data,) = hands.sent["b"].tensors(successor)
    (slot,) = successor.put_all([data])
    assert bytes(successor.view(cast("Slot", slot))) == CONTENT
    assert arena.slots == 1
    hands.sent["b"].answer("y", b"end")
    assert bytes(call.result(0).tensors[0].data) == b"end"
    assert arena.slots == 0
    successor.close()


def test_a_taker_without_workers_gets_memory_of_its_own(arena: Arena) -> None:
    hands = Hands()
    hands.arenas["b"] = arena
    begin(hands, step("a", "IN", "t"), step("b", "t", "OUT"))
    view = hands.sent["a"].place("y", CONTENT)
    hands.sent["a"].answer("y", view)
    (data,) = hands.sent["b"].tensors(None)
    view[:] = bytes(len(view))
    assert bytes(data) == CONTENT
    hands.sent["b"].answer("y", b"end")


def test_only_the_last_taker_may_take_the_slot_over(arena: Arena) -> None:
    """Two that are on their way to their models at the same time both copy: neither knows when the other is done."""
    hands, found = Hands(), dict[str, list[Buffer]]()
    hands.arenas.update(b=arena, c=arena)
    hands.on_step = lambda model: found.update({model: hands.sent[model].tensors(arena)})
    begin(hands, step("a", "IN", "t"), step("b", "t", "u"), step("c", "t", "OUT"))
    view = hands.sent["a"].place("y", CONTENT)
    hands.sent["a"].answer("y", view)
    assert found["b"][0] is not view
    assert found["c"][0] is view
    slots = arena.put_all(found["b"]) + arena.put_all(found["c"])
    assert arena.slots == 2
    arena.free_all(slots)
    hands.sent["b"].answer("y", b"u")
    hands.sent["c"].answer("y", b"end")


def test_takers_at_the_same_time_both_copy(arena: Arena) -> None:
    hands, found = Hands(), list[Buffer]()
    hands.arenas.update(b=arena, c=arena)
    begin(hands, step("a", "IN", "t"), step("w", "IN", "v"), step("b", "t", "u"), step("c", "t v", "OUT"))
    view = hands.sent["a"].place("y", CONTENT)

    def on_step(model: str) -> None:
        if model == "b":
            found.extend(hands.sent["b"].tensors(arena))
            hands.sent["w"].answer("y", b"v")  # by another thread, while `b` is copying: `c` can start
        if model == "c":
            found.extend(hands.sent["c"].tensors(arena))

    hands.on_step = on_step
    hands.sent["a"].answer("y", view)
    assert len(found) == 3
    assert all(data is not view for data in found)
    hands.sent["b"].answer("y", b"u")
    assert arena.slots == 1
    hands.sent["c"].answer("y", b"end")
    assert arena.slots == 0


def test_memory_is_freed_when_the_last_step_is_over_and_not_before(arena: Arena) -> None:
    """The reader of `b` may be writing when `a` fails."""
    hands = Hands()
    hands.arenas["c"] = arena
    call = begin(hands, step("a", "IN", "s"), step("b", "IN", "t"), step("c", "s t", "OUT"))
    hands.sent["a"].on_answer(ModelFailed("no"))
    with pytest.raises(ModelFailed, match="no"):
        call.result(0)
    view = hands.sent["b"].place("y", CONTENT)
    assert arena.slots == 1
    hands.sent["b"].answer("y", view)
    assert arena.slots == 0
    assert "c" not in hands.sent
    assert hands.sent["b"].target("y", len(CONTENT)) is None


def test_a_step_that_fails_after_it_placed_frees_it(arena: Arena) -> None:
    hands = Hands()
    hands.arenas["b"] = arena
    call = begin(hands, step("a", "IN", "t"), step("b", "t", "OUT"))
    hands.sent["a"].place("y", CONTENT)
    hands.sent["a"].on_answer(ModelFailed("its worker died"))
    with pytest.raises(ModelFailed):
        call.result(0)
    assert arena.slots == 0


def test_a_step_that_is_refused_frees_what_it_was_given(arena: Arena) -> None:
    hands = Hands()
    hands.arenas["b"] = arena

    def refuse(model: str) -> None:
        if model == "b":
            raise Draining("not now")

    hands.on_step = refuse
    call = begin(hands, step("a", "IN", "t"), step("b", "t", "OUT"))
    hands.sent["a"].answer("y", hands.sent["a"].place("y", CONTENT))
    with pytest.raises(Draining, match="not now"):
        call.result(0)
    assert arena.slots == 0


def test_only_large_tensors_for_steps_alone_are_placed_and_once(arena: Arena) -> None:
    hands = Hands()
    hands.arenas["b"] = arena
    begin(hands, step("a", "IN", "t"), step("b", "t", "OUT"), step("c", "IN", "OUT2"))
    target = hands.sent["a"].target
    assert target("y", INLINE) is None
    assert target("unknown", 1 << 20) is None
    assert hands.sent["c"].target("y", 1 << 20) is None  # nobody takes it
    view = hands.sent["a"].place("y", CONTENT)
    assert target("y", len(CONTENT)) is None  # a second response, which will be refused
    hands.sent["a"].answer("y", view)
    assert hands.sent["b"].target("y", 1 << 20) is None  # the ensemble's own output
    hands.sent["b"].answer("y", b"end")
    hands.sent["c"].answer("y", b"end")


def test_a_closed_arena_is_not_written() -> None:
    hands, closed = Hands(), Arena(1 << 20)
    closed.close()
    hands.arenas["b"] = closed
    begin(hands, step("a", "IN", "t"), step("b", "t", "OUT"))
    assert hands.sent["a"].target("y", len(CONTENT)) is None
