"""Stateful models end to end: the real client, the HTTP routes, the scheduler and worker processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from jitney.core.errors import InvalidRequest, JitneyError, WorkerDied
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.server.serving.sequence_deployment import SequenceDeployment
from jitney.tests.fakes.serving import LIMIT_S, Serving, serving, write_model

CONTROLS = """
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ -1, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 7 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_%s } ] } ]
"""
CONFIG = """
backend: "python" max_batch_size: 4
input [ { name: "X" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ -1 ] }, { name: "SEEN" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: %d } ]
sequence_batching { max_sequence_idle_microseconds: %d %s }
"""
#: Y = the sum of X over the sequence, kept by the model itself by CORRID; SEEN = what the model saw of its batch.
MODEL = """
import json, os, time
import numpy as np
import triton_python_backend_utils as pb_utils


def value(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        batch = [[json.loads(json.dumps(value(r, name).reshape(-1).tolist()[0], default=bytes.decode))
                  for name in ("CORRID", "START", "READY", "END", "X")] for r in requests]
        shapes = sorted({str(value(r, name).shape) for r in requests for name in ("CORRID", "START", "READY", "END")})
        pause = max((json.loads(r.parameters()).get("pause", 0) for r in requests), default=0)
        time.sleep(pause)
        answers = []
        for request, (corrid, start, ready, end, x) in zip(requests, batch):
            if start > 0:
                self.sums[corrid] = 0
            if ready:
                self.sums[corrid] = self.sums.get(corrid, 1000) + x
            seen = {"batch": batch, "shapes": shapes, "pid": os.getpid(), "id": request.correlation_id(),
                    "flags": request.flags()}
            answers.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("Y", np.array([[self.sums.get(corrid, -1)]], np.int32)),
                pb_utils.Tensor("SEEN", np.array([[json.dumps(seen)]], object))]))
        return answers
"""
#: Implicit state: SUM_OUT becomes SUM_IN, a counter begins with a file, a text is kept too.
STATE = """
  state [
    { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_INT32 dims: [ 1 ]
      initial_state: { name: "zeros" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } },
    { input_name: "COUNT_IN" output_name: "COUNT_OUT" data_type: TYPE_INT64 dims: [ 1 ]
      initial_state: { name: "ten" data_type: TYPE_INT64 dims: [ 1 ] data_file: "ten" } },
    { input_name: "LOG_IN" output_name: "LOG" data_type: TYPE_STRING dims: [ 1 ] } ]
"""
STATE_CONFIG = """
backend: "python" max_batch_size: 4
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 2 ] }, { name: "LOG" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
sequence_batching { %s }
"""
STATE_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x, total, count, log = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("X", "SUM_IN", "COUNT_IN", "LOG_IN"))
            if x[0, 0] < 0:
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("negative")))
                continue
            total, count = total + x, count + 1
            given = [pb_utils.Tensor("Y", np.concatenate([total, count.astype(np.int32)], 1)),
                     pb_utils.Tensor("SUM_OUT", total if x[0, 0] != 99 else total.astype(np.int64)),
                     pb_utils.Tensor("COUNT_OUT", count),
                     pb_utils.Tensor("LOG", np.array([[log[0, 0] + b"%d;" % int(x[0, 0])]], object))]
            answers.append(pb_utils.InferenceResponse(given))
        return answers
"""

MINUTE_US = 60_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("repository")
    numbers, strings = CONTROLS % "UINT64", CONTROLS % "STRING"
    write_model(folder, "direct", CONFIG % (1, MINUTE_US, numbers), MODEL)
    oldest = "oldest { max_candidate_sequences: 8 max_queue_delay_microseconds: 20000000 preferred_batch_size: [ 3 ] }"
    write_model(folder, "oldest", CONFIG % (1, MINUTE_US, oldest + numbers), MODEL)
    write_model(folder, "strings", CONFIG % (2, MINUTE_US, "direct { }" + strings), MODEL)
    write_model(folder, "small", CONFIG % (1, MINUTE_US, CONTROLS % "INT32"), MODEL)
    narrow = CONFIG % (1, 1_000_000, numbers)
    write_model(folder, "narrow", narrow.replace("max_batch_size: 4", "max_batch_size: 1"), MODEL)
    state = write_model(folder, "state", STATE_CONFIG % STATE, STATE_MODEL)
    (folder / "chain" / "1").mkdir(parents=True)
    (folder / "chain" / "config.pbtxt").write_text(ENSEMBLE)
    write_model(folder, "asking", ASKING_CONFIG, ASKING)
    (state / "initial_state").mkdir()
    (state / "initial_state" / "ten").write_bytes(np.array([10], np.int64).tobytes())
    return folder


#: Passes a sequence on to the model "direct", as an ensemble and as a model that asks another.
ENSEMBLE = """
platform: "ensemble" max_batch_size: 4
input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ -1 ] } ]
ensemble_scheduling { step [ { model_name: "direct" model_version: -1
  input_map { key: "X" value: "IN" } output_map { key: "Y" value: "OUT" } } ] }
"""
ASKING_CONFIG = """
backend: "python" max_batch_size: 0
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1, 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1, 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""
ASKING = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            other = pb_utils.InferenceRequest(
                model_name="direct", requested_output_names=["Y"], inputs=request.inputs(),
                correlation_id=request.correlation_id(), flags=request.flags())
            response = other.exec()
            if response.has_error():
                answers.append(pb_utils.InferenceResponse(error=response.error()))
            else:
                answers.append(pb_utils.InferenceResponse(response.output_tensors()))
        return answers
"""


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Serving]:
    with serving(folder, "direct", "oldest", "strings", "small", "narrow", "state", "chain", "asking") as found:
        yield found


class Clients(threading.local):
    """A client for each thread that asks, since one may be used by the thread only that made it."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address, network_timeout=LIMIT_S)

    def infer(self, *args: Any, **kwargs: Any) -> Any:
        return self._client.infer(*args, **kwargs)

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def client(served: Serving) -> Iterator[Clients]:
    with served.listening(threads=24) as address:
        clients = Clients(address)
        yield clients
        clients.close()


def tensor(*values: int) -> triton.InferInput:
    array = np.array([values], np.int32)
    found = triton.InferInput("X", list(array.shape), "INT32")
    found.set_data_from_numpy(array)
    return found


def ask(client: Clients, model: str, x: int, sequence: Any, flags: str = "", **parameters: Any) -> Any:
    return client.infer(
        model,
        [tensor(x)],
        sequence_id=sequence,
        sequence_start="start" in flags,
        sequence_end="end" in flags,
        parameters=parameters or None,
    )


def total(answer: Any) -> int:
    return int(answer.as_numpy("Y")[0, 0])


def seen(answer: Any) -> Any:
    return json.loads(answer.as_numpy("SEEN")[0, 0])


def together(client: Clients, count: int, run: Callable[[int], Any]) -> list[Any]:
    """Runs `run(n)` for each n at once."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait(LIMIT_S)
        try:
            return run(number)
        finally:
            client.close()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_a_sequence_and_what_its_model_sees(client: Clients) -> None:
    first = ask(client, "direct", 5, 2**64 - 1, "start")
    assert total(first) == 5
    assert seen(first)["batch"] == [[2**64 - 1, 1.0, True, 0, 5]]
    assert seen(first)["shapes"] == ["(1, 1)"]
    assert (seen(first)["id"], seen(first)["flags"]) == (2**64 - 1, 1)
    assert total(ask(client, "direct", 6, 2**64 - 1)) == 11
    last = ask(client, "direct", 7, 2**64 - 1, "end")
    assert total(last) == 18
    assert seen(last)["batch"] == [[2**64 - 1, -1.0, True, 7, 7]]
    assert seen(last)["flags"] == 2
    with pytest.raises(InferenceServerException, match=r"\[400\] inference request for sequence .* START flag"):
        ask(client, "direct", 7, 2**64 - 1)


def test_requests_that_no_sequence_can_take(client: Clients) -> None:
    with pytest.raises(
        InferenceServerException, match=r"\[400\] inference request to model 'direct' must specify a non-zero"
    ):
        ask(client, "direct", 1, 0)
    wide = triton.InferInput("X", [2, 1], "INT32")
    wide.set_data_from_numpy(np.zeros((2, 1), np.int32))
    with pytest.raises(
        InferenceServerException, match=r"\[400\] .* must specify batch-size 1 due to requirements of sequence"
    ):
        client.infer("direct", [wide], sequence_id=5, sequence_start=True)
    for model, sequence, kind in (("direct", "text", "UINT64"), ("small", 2**31, "INT32")):
        with pytest.raises(InferenceServerException, match=rf"\[400\] sequence id .* does not fit model '{model}'.* {kind}"):
            ask(client, model, 1, sequence, "start")


def test_an_empty_slot_is_in_the_batch_but_not_ready(client: Clients) -> None:
    for sequence in (11, 12, 13):
        ask(client, "direct", 1, sequence, "start")
    batch = seen(ask(client, "direct", 1, 13))["batch"]
    assert batch == [[0, -1.0, False, 0, 0], [0, -1.0, False, 0, 0], [13, -1.0, True, 0, 1]]
    for sequence in (11, 12, 13):
        assert total(ask(client, "direct", 1, sequence, "end")) == (3 if sequence == 13 else 2)


def test_many_clients_at_once_keep_their_sums(client: Clients, served: Serving) -> None:
    def play(number: int) -> list[int]:
        sequence, model = 100 + number, ("direct", "oldest")[number % 2]
        flags = {0: "start", 9: "end"}
        return [total(ask(client, model, k + number, sequence, flags.get(k, ""))) for k in range(10)]

    sums = together(client, 6, play)
    for number, found in enumerate(sums):
        assert found == [int(s) for s in np.cumsum([k + number for k in range(10)])]
    (statistics,) = served.dataplane.statistics("oldest")
    assert statistics.execution_count < statistics.inference_count, "sequences were batched"
    assert statistics.departures["preferred"] == statistics.execution_count


def test_oldest_batches_preferred_sizes(client: Clients) -> None:
    answers = together(client, 3, lambda number: ask(client, "oldest", 1, 50 + number, "start end"))
    assert {len(seen(answer)["batch"]) for answer in answers} == {3}


def test_strings_are_ids_too(client: Clients) -> None:
    assert total(ask(client, "strings", 1, "a", "start")) == 1
    assert total(ask(client, "strings", 1, "b", "start")) == 1
    answers = [ask(client, "strings", k, name, "end") for k, name in ((2, "a"), (3, "b"))]
    assert [total(answer) for answer in answers] == [3, 4]
    assert len({seen(answer)["pid"] for answer in answers}) == 2, "each on its own worker"
    assert [seen(answer)["batch"] for answer in answers] == [[["a", -1.0, True, 7, 2]], [["b", -1.0, True, 7, 3]]]
    assert total(ask(client, "strings", 4, 17, "start end")) == 4


def test_a_sequence_that_is_idle_for_too_long_makes_room(client: Clients) -> None:
    ask(client, "narrow", 1, 1, "start")
    began = time.monotonic()
    assert total(ask(client, "narrow", 1, 2, "start")) == 1
    assert 0.8 < time.monotonic() - began < 10
    with pytest.raises(InferenceServerException, match="START"):
        ask(client, "narrow", 1, 1)
    assert total(ask(client, "narrow", 5, 2, "end")) == 6


def test_the_worker_keeps_a_sequences_state(client: Clients) -> None:
    def step(x: int, sequence: int, flags: str = "", outputs: Any = None) -> Any:
        return client.infer(
            "state",
            [tensor(x)],
            sequence_id=sequence,
            sequence_start="start" in flags,
            sequence_end="end" in flags,
            outputs=outputs,
        )

    first = step(1, 1, "start")
    assert first.as_numpy("Y").tolist() == [[1, 11]]
    assert [output["name"] for output in first.get_response()["outputs"]] == ["Y", "LOG"], (
        "a state that is no output is hidden"
    )
    assert step(5, 2, "start").as_numpy("Y").tolist() == [[5, 11]]
    assert step(2, 1).as_numpy("Y").tolist() == [[3, 12]]
    only = step(3, 1, outputs=[triton.InferRequestedOutput("Y")])
    assert [output["name"] for output in only.get_response()["outputs"]] == ["Y"]
    with pytest.raises(InferenceServerException, match="negative"):
        step(-1, 1)
    with pytest.raises(InferenceServerException, match="gave state 'SUM_OUT' as INT64, expected INT32"):
        step(99, 2)
    last = step(4, 1, "end")
    assert last.as_numpy("Y").tolist() == [[10, 14]], "an error changed nothing"
    assert last.as_numpy("LOG").tolist() == [[b"1;2;3;4;"]]
    again = step(1, 1, "start")
    assert (again.as_numpy("Y").tolist(), again.as_numpy("LOG").tolist()) == ([[1, 11]], [[b"1;"]])
    step(0, 1, "end")
    step(0, 2, "end")


def sequence_request(x: int, sequence: Any, flags: int, **parameters: Any) -> Request:
    hidden = {"triton_sequence_id": sequence, "triton_flags": flags}
    return Request(tensors=[Tensor.from_numpy("X", np.array([[x]], np.int32))], parameters=hidden | parameters)


def test_a_dead_worker_takes_its_sequences_along(folder: Path) -> None:
    with serving(folder, "strings") as served:
        plane = served.dataplane

        def run(x: int, sequence: Any, flags: int = 0) -> Any:
            return plane.infer("strings", None, sequence_request(x, sequence, flags)).result(LIMIT_S)

        pids = {name: json.loads(run(1, name, 1).tensors[1].numpy()[0, 0])["pid"] for name in ("a", "b")}
        running = plane.infer("strings", None, sequence_request(1, "a", 0, pause=30))
        waiting = plane.infer("strings", None, sequence_request(1, "a", 0))
        anew = plane.infer("strings", None, sequence_request(40, "a", 1))
        os.kill(pids["a"], signal.SIGKILL)
        with pytest.raises(WorkerDied, match="died"):
            running.result(LIMIT_S)
        with pytest.raises(WorkerDied, match="sequence a of model 'strings' was lost"):
            waiting.result(LIMIT_S)
        assert anew.result(LIMIT_S).tensors[0].numpy().tolist() == [[40]]
        assert run(1, "b").tensors[0].numpy().tolist() == [[2]], "the other worker's sequence goes on"
        os.kill(pids["b"], signal.SIGKILL)
        deadline = time.monotonic() + LIMIT_S
        while pids["b"] in [worker.pid for worker in plane.registry.deployment("strings").workers()]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(WorkerDied):
            run(1, "b")
        assert run(3, "b", 1).tensors[0].numpy().tolist() == [[3]]


def test_a_client_that_leaves_gives_its_place_up(served: Serving) -> None:
    plane = served.dataplane
    running = plane.infer("narrow", None, sequence_request(1, 70, 1, pause=0.3))
    start = plane.infer("narrow", None, sequence_request(1, 71, 1))
    behind = plane.infer("narrow", None, sequence_request(1, 71, 0))
    start.cancel()
    with pytest.raises(WorkerDied, match=r"sequence 71 .* was lost"):
        behind.result(LIMIT_S)
    assert running.result(LIMIT_S).tensors[0].numpy().tolist() == [[1]]
    assert plane.infer("narrow", None, sequence_request(1, 70, 2)).result(LIMIT_S).tensors[0].numpy().tolist() == [[2]]


def test_a_sequence_whose_beginning_could_not_be_handed_over_does_not_go_on(served: Serving) -> None:
    """The model would add to what it keeps of another sequence."""
    plane = served.dataplane
    running = plane.infer("narrow", None, sequence_request(1, 80, 1, pause=0.3))
    start = plane.infer("narrow", None, sequence_request(1, 81, 1, too_large=2**70))
    behind = plane.infer("narrow", None, sequence_request(1, 81, 0))
    assert plane.infer("narrow", None, sequence_request(2, 80, 2)).result(LIMIT_S).tensors[0].numpy().tolist() == [[3]]
    assert running.result(LIMIT_S).tensors[0].numpy().tolist() == [[1]]
    with pytest.raises(InvalidRequest, match="cannot be handed to a worker"):
        start.result(LIMIT_S)
    with pytest.raises(WorkerDied, match=r"sequence 81 .* was lost"):
        behind.result(LIMIT_S)


def test_no_sequence_begins_in_a_worker_that_is_leaving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder, "strings") as served:
        deployment = served.dataplane.registry.deployment("strings")
        assert isinstance(deployment, SequenceDeployment)
        monkeypatch.setattr(deployment.pool._supervisor, "dismiss", lambda worker: None)  # it is slow to leave
        deployment.scale(1)
        with deployment._options.io.coalescer.together():
            calls = [served.dataplane.infer("strings", None, sequence_request(1, name, 1)) for name in "abc"]
        assert [call.result(LIMIT_S).tensors[0].numpy().tolist() for call in calls] == [[[1]]] * 3
        monkeypatch.undo()
        for worker in list(deployment.pool._roster.leaving):
            deployment.pool._supervisor.dismiss(worker)


def test_a_sequence_is_passed_on_to_other_models(client: Clients) -> None:
    for sequence, x, flags, wanted in ((201, 4, "start", 4), (201, 5, "", 9), (201, 6, "end", 15)):
        found = client.infer(
            "asking", [tensor(x)], sequence_id=sequence, sequence_start=flags == "start", sequence_end=flags == "end"
        )
        assert total(found) == wanted
        given = triton.InferInput("IN", [1, 1], "INT32")
        given.set_data_from_numpy(np.array([[x]], np.int32))
        found = client.infer(
            "chain", [given], sequence_id=sequence + 1, sequence_start=flags == "start", sequence_end=flags == "end"
        )
        assert found.as_numpy("OUT").tolist() == [[wanted]]
    with pytest.raises(InferenceServerException, match=r"in ensemble 'chain', inference request for sequence 202 .* START"):
        client.infer("chain", [given], sequence_id=202)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        ask(client, "asking", 1, 201)


def test_generate_takes_sequence_parameters(served: Serving) -> None:
    body = {"X": [3], "sequence_id": 90, "parameters": {"sequence_start": True, "sequence_end": True}}
    found = served.http.simulate_post("/v2/models/direct/generate", json=body)
    assert found.json["Y"] == 3
    assert served.http.simulate_post("/v2/models/direct/generate", json={"X": [3]}).status_code == 400


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ('state [ { input_name: "X" output_name: "O" data_type: TYPE_INT32 dims: [1] } ]', "no other input has"),
        ('state [ { input_name: "S" output_name: "" data_type: TYPE_INT32 dims: [1] } ]', "need output names"),
        (
            'state [ { input_name: "S" output_name: "O" data_type: TYPE_INT32 dims: [1] '
            'initial_state: { name: "i" data_type: TYPE_FP32 dims: [1] zero_data: true } } ]',
            "must be INT32",
        ),
        (
            'state [ { input_name: "S" output_name: "O" data_type: TYPE_INT32 dims: [1] '
            'initial_state: { name: "i" data_type: TYPE_INT32 dims: [1] data_file: "nothing" } } ]',
            "initial_state/nothing",
        ),
        (
            'state [ { input_name: "S" output_name: "O" data_type: TYPE_INT32 dims: [1] '
            'initial_state: { name: "i" data_type: TYPE_INT32 dims: [1] data_file: "../config.pbtxt" } } ]',
            "invalid path",
        ),
    ],
)
def test_a_state_that_cannot_work_is_refused(tmp_path: Path, extra: str, text: str) -> None:
    write_model(tmp_path, "bad", CONFIG % (1, 0, extra), MODEL)
    with serving(tmp_path) as served, pytest.raises(JitneyError, match=text):
        served.load("bad")


# ---- decoupled

DECOUPLED = """
backend: "python" max_batch_size: 4
model_transaction_policy { decoupled: true }
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
sequence_batching { max_sequence_idle_microseconds: 20000000 %s }
"""
#: Answers each request half a second after `execute` has returned, with the sum of its sequence so far.
SLOW = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request,)).start()

    def answer(self, request):
        time.sleep(0.5)
        sequence = request.correlation_id()
        x = int(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0])
        self.sums[sequence] = self.sums.get(sequence, 0) + x
        sender = request.get_response_sender()
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([[self.sums[sequence]]], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.mark.parametrize("strategy", ["direct { }", "oldest { max_candidate_sequences: 4 }"])
def test_open_requests_of_other_sequences_keep_nobody_waiting(tmp_path: Path, strategy: str) -> None:
    write_model(tmp_path, "slow", DECOUPLED % strategy, SLOW)

    def ask(served: Serving, sequence: int, flags: int, x: int) -> int:
        tensors = [Tensor.from_numpy("X", np.array([[x]], np.int32))]
        first, *_ = served.ask("slow", tensors, triton_sequence_id=sequence, triton_flags=flags)
        return int(first.tensors[0].numpy().item())

    with serving(tmp_path, "slow") as served, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        asked = [pool.submit(ask, served, n, 1, n) for n in range(1, 5) if not time.sleep(0.02)]
        asked += [pool.submit(ask, served, n, 2, 10) for n in range(1, 5) if not time.sleep(0.02)]
        assert [each.result(LIMIT_S) for each in asked] == [1, 2, 3, 4, 11, 12, 13, 14]
        assert time.monotonic() - began < 2.5, "4 s one after the other"
