"""Batches through real worker processes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jitney.core import holding
from jitney.core.call import Call
from jitney.core.errors import HoldsTooMuch, InvalidRequest, ModelFailed
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.server.ipc.arena import Arena
from jitney.server.workers.pool import Pool
from jitney.server.workers.worker_state import WorkerState

from .conftest import LIMIT_S, call_to, eventually

pytestmark = pytest.mark.usefixtures("reading")


def failure(call: Any) -> Any:
    with pytest.raises(ModelFailed) as caught:
        call.result(LIMIT_S)
    return caught.value


ARRAYS = [
    np.array([[1, 2], [3, 4]], np.float32),
    np.arange(100_000, dtype=np.int64).reshape(10, -1),
    np.array([[b"bytes", b""]], dtype=object),
    np.zeros((0, 3), np.float16),
    np.array(True),
]


@pytest.mark.parametrize("inline", [True, False])
def test_tensors_parts_and_all_fields_come_back_unchanged(bench: Callable[..., Any], inline: bool) -> None:
    b = bench().up()
    request = Request(
        "id-1",
        [Tensor.from_numpy(f"x{n}", np.asarray(array)) for n, array in enumerate(ARRAYS)],
        headers={"X-Custom": "ä"},
        parameters={"s": "text", "i": 1 << 40, "f": 0.5, "b": True},
        outputs=("y", "z"),
        rows=10,
    )
    call = Call(request)
    if inline:
        b.pool.execute([call])
    else:
        b.send(call)
        assert len(call.slots) == len(ARRAYS)
    response = call.result(LIMIT_S)
    for sent, received in zip(request.tensors, response.tensors, strict=True):
        assert (sent.name, sent.datatype, sent.shape) == (received.name, received.datatype, received.shape)
        assert bytes(memoryview(sent.data)) == bytes(memoryview(received.data))
    assert response.headers["X-Custom"] == "ä"
    assert response.parameters == {"rows": 10, "batch_id": "id-1", "outputs": "y,z"}
    assert (response.status, response.reason, response.final) == (201, "Done", True)


def test_parts_and_bodies(bench: Callable[..., Any]) -> None:
    b = bench().up()
    large = bytes(range(256)) * 4000
    for data in (b"small", large, b""):
        response = b.ask(parts=[("body", data, "image/png"), ("other", memoryview(b"!"), "")])
        assert bytes(response.body) == data + b"!"
        assert response.headers["parts"] == "body=image/png;other="


def test_answers_are_taken_when_given_and_do_not_share_memory(bench: Callable[..., Any]) -> None:
    b = bench().up()
    calls = b.send(*(call_to("large", count=50_000 + n, value=n) for n in range(8)))
    answers = [call.result(LIMIT_S).tensors[0].numpy() for call in calls]
    b.send(call_to("large", count=500_000, value=99))[0].result(LIMIT_S)
    for n, answer in enumerate(answers):
        assert answer.shape == (50_000 + n,)
        assert (answer == n).all()
        assert answer.flags.writeable


def test_inputs_are_writable_in_the_worker(bench: Callable[..., Any]) -> None:
    b = bench().up()
    for size in (4, 40_000):
        assert (b.ask("write", tensors=[np.zeros(size, np.float32)]).tensors[0].numpy() == 1).all()


def test_of_32_requests_one_fails_alone(bench: Callable[..., Any]) -> None:
    b = bench().up()
    calls = [call_to("refuse" if n == 7 else "echo", tensors=[np.full(5000, n, np.int32)]) for n in range(32)]
    b.send(*calls)
    for n, call in enumerate(calls):
        if n == 7:
            error = failure(call)
            assert (str(error), error.code, error.by_model) == ("not this one", "INVALID_ARG", True)
        else:
            assert (call.result(LIMIT_S).tensors[0].numpy() == n).all()
    (report,) = eventually(lambda: b.reports)
    assert report.calls == calls
    assert (report.rows, report.worker, report.ok) == (32, "m_0_0", True)
    assert report.durations[1] > 0
    assert calls[0].times.compute_infer == report.durations[1]
    assert calls[0].times.dispatched >= calls[0].times.arrived
    assert calls[0].batch_rows == 32


def test_an_exception_fails_those_without_an_answer(bench: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    b = bench().up()
    first, second, third = b.send(call_to(), call_to("raise"), call_to())
    first.result(LIMIT_S)
    for call in (second, third):
        error = failure(call)
        assert (str(error), error.code) == ("ZeroDivisionError: as asked", "INTERNAL")
    eventually(lambda: "in do_raise" in caplog.text)  # the traceback is for the operator
    assert b.ask().final  # and the worker goes on


@pytest.mark.parametrize(
    ("do", "code", "message"),
    [
        ("nothing", "BAD_OUTPUT", "the model answered 1 of 2 requests"),
        ("nonsense", "BAD_OUTPUT", "output 'y' has 4 bytes, expected 12 for FP32 of shape [3]"),
        ("object", "BAD_OUTPUT", "the model's answer cannot be sent"),
        ("wrong_type", "BAD_OUTPUT", "the model's answer cannot be understood"),
    ],
)
def test_bad_answers_say_what_is_wrong_and_hurt_nobody_else(
    bench: Callable[..., Any], do: str, code: str, message: str
) -> None:
    b = bench().up()
    bad, good = b.send(call_to(do), call_to())
    error = failure(bad)
    assert error.code == code
    assert message in str(error)
    assert good.result(LIMIT_S).final


def test_memory_that_runs_out_has_a_code_of_its_own(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (call,) = b.send(call_to("exhaust"))
    error = failure(call)
    assert (str(error), error.code) == ("MemoryError: no more", "OUT_OF_MEMORY")
    assert b.ask().final


def test_answering_twice_is_the_models_mistake(bench: Callable[..., Any]) -> None:
    b = bench().up()
    twice, after = b.send(call_to("twice"), call_to())
    assert twice.result(LIMIT_S).final
    assert "had its final response already" in str(failure(after))


def test_streamed_answers_arrive_one_by_one_also_large_ones(bench: Callable[..., Any]) -> None:
    b = bench().up()
    for size in (1, 3 << 20):
        (call,) = b.send(call_to("stream", count=4, size=size))
        answers = list(call.stream(LIMIT_S))
        assert [bytes(answer.body) for answer in answers] == [bytes([n]) * size for n in range(4)] + [b"end"]
        assert [answer.final for answer in answers] == [False] * 4 + [True]


def test_the_first_streamed_answer_does_not_wait_for_the_last(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True).up()
    until = tmp_path / "go"
    (call,) = b.send(call_to("later", until=str(until), tensors=[np.arange(50_000, dtype=np.float32)]))
    until.write_text("")
    assert bytes(call.result(LIMIT_S).body) == b"first"
    assert call.result(LIMIT_S).tensors[0].numpy()[-1] == 49_999  # its input was still there
    assert eventually(b.pool.idle) == 1
    assert len(b.reports) == 1


def test_a_stream_that_nobody_reads_is_cancelled(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (call,) = b.send(call_to("forever"))
    call.result(LIMIT_S)
    call.cancel()
    assert eventually(b.pool.idle) == 1


def test_cancel_reaches_the_request_that_runs(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench().up()
    mark = tmp_path / "mark"
    (call,) = b.send(call_to("listen", mark=str(mark)))
    eventually(mark.exists)
    assert b.pool.idle() == 0
    b.pool.cancel(call)
    assert bytes(call.result(LIMIT_S).body) == b"heard"


def test_calls_that_are_over_are_not_executed(bench: Callable[..., Any]) -> None:
    b = bench().up()
    gone, there = call_to("die"), call_to()
    gone.cancel()
    b.send(gone, there)
    assert there.result(LIMIT_S).final
    (report,) = eventually(lambda: b.reports)
    assert report.calls == [gone, there]
    assert report.rows == 1
    b.send(gone)
    assert b.reports[1].calls == [gone]
    assert b.pool.idle() == 1


def test_a_request_that_cannot_be_encoded_fails_alone(bench: Callable[..., Any]) -> None:
    b = bench().up()
    bad, good = call_to(), call_to()
    bad.request.headers = {"x": "\ud800"}
    b.send(bad, good)
    with pytest.raises(InvalidRequest, match="cannot be handed to a worker"):
        bad.result(LIMIT_S)
    assert good.result(LIMIT_S).final
    wrong = call_to(tensors=[np.zeros(3)])
    wrong.slots.extend(b.arena.put(b"x") for _ in range(2))
    b.pool.execute([wrong])
    with pytest.raises(InvalidRequest, match="2 slots for 1 tensors and 0 parts"):
        wrong.result(LIMIT_S)


def test_prints_cannot_be_mistaken_for_messages_and_reach_the_log(
    bench: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jitney.model.m")
    b = bench().up()
    assert b.ask("print").final
    assert b.pool.idle() == 1
    b.pool.stop(LIMIT_S)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "jitney.model.m"]
    assert ("INFO", "m_0_0: READY Torch worker started.") in lines
    assert ("INFO", 'm_0_0: ["Loaded"] {"done": true}') in lines
    assert ("WARNING", "m_0_0: a warning without an end of line") in lines
    assert sum(len(text) for _, text in lines if "xxx" in text) > 100_000


def test_the_worker_is_told_its_name_share_and_environment_and_imports_little(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    b = bench(environment={"MODEL_VARIABLE": "given"}, parameters={"INTRA_OP_THREAD_COUNT": "3"}).up()
    facts = b.ask("who").parameters
    assert facts["name"] == "m_0_0"
    assert facts["threads"] == 3
    assert facts["omp"] == "3"
    assert facts["model_variable"] == "given"
    assert facts["heavy"] is False


def test_status(bench: Callable[..., Any]) -> None:
    b = bench().up(2)
    first, second = b.pool.workers()
    assert (first.name, second.name) == ("m_0_0", "m_0_1")
    assert second.id == first.id + 1
    for worker in (first, second):
        process = psutil.Process(worker.pid)
        assert "jitney.server.worker.main" in process.cmdline()
        assert worker.name in process.cmdline()
        assert worker.memory_bytes > 1 << 20
        assert abs(worker.started - process.create_time()) < 5
        assert (worker.state, worker.gpu, worker.restarts, worker.error) == (WorkerState.READY, None, 0, "")
    assert (b.pool.ready(), b.pool.idle(), b.pool.target(), b.pool.healthy()) == (2, 2, 2, 2)


def test_events(bench: Callable[..., Any]) -> None:
    b = bench().up()
    b.ask("emit")
    assert b.events == [("metric", {"name": "Loss", "value": 0.5})]


def test_a_callback_that_fails_keeps_nobody_from_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken callback")

    arena = Arena(1 << 20)
    config = ModelConfig("m", "1", "python")
    pool = Pool(
        config,
        arena,
        on_idle=broken,
        on_batch=broken,
        on_state=broken,
        on_event=broken,
        gpus=(),
        factory="jitney.tests.fakes.worker_backends:obedient",
    )
    pool.start(1)
    pool.wait_ready(LIMIT_S)
    for _ in range(3):
        call = call_to("emit")
        pool.execute([call])
        assert call.result(LIMIT_S).final
    pool.stop(LIMIT_S)
    arena.close()
    assert "broken callback" in caplog.text


def test_many_threads_execute_at_the_same_time(bench: Callable[..., Any]) -> None:
    b = bench().up(2)
    wrong = []

    def client(mark: Any) -> None:
        for n in range(40):
            value = mark * 1000 + n
            answer = b.ask(tensors=[np.full(2000, value)]).tensors[0].numpy()
            if not (answer == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=client, args=(mark,)) for mark in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    eventually(lambda: len(b.reports) == 240)


MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy() + 1)]
            )
            for request in requests
        ]
"""


def test_without_a_factory_the_packages_own_backends_run(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.py").write_text(MODEL)
    config = ModelConfig(
        "plus",
        "1",
        "python",
        directory=str(tmp_path),
        version_directory=str(tmp_path / "1"),
        filename="model.py",
        max_batch_size=4,
        inputs=(TensorSpec("x", "INT32", (3,)),),
        outputs=(TensorSpec("y", "INT32", (3,)),),
    )
    arena = Arena(1 << 20)
    pool = Pool(config, arena, on_idle=lambda: None, gpus=())
    pool.start(1)
    pool.wait_ready(LIMIT_S)
    calls = [Call(Request(tensors=[Tensor.from_numpy("x", np.array([[n, n, n]], np.int32))])) for n in range(4)]
    pool.execute(calls)
    for n, call in enumerate(calls):
        assert call.result(LIMIT_S).tensors[0].numpy().tolist() == [[n + 1] * 3]
    pool.stop(LIMIT_S)
    arena.close()


def test_an_answer_that_there_is_no_room_for_is_refused_and_no_other(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "process", holding.Holdings(3 << 20))
    b = bench(max_batch_size=4).up()
    large, small = np.zeros(2 << 20, np.uint8), np.zeros(10, np.uint8)
    calls = [call_to(tensors=[array]) for array in (large, large, small)]
    b.send(*calls)
    kept = calls[0].result(LIMIT_S)
    with pytest.raises(HoldsTooMuch, match="max_held_bytes"):
        calls[1].result(LIMIT_S)
    assert calls[2].result(LIMIT_S).tensors[0].nbytes == 10
    again = call_to(tensors=[large])
    del kept
    calls.clear()
    b.send(again)
    assert again.result(LIMIT_S).tensors[0].nbytes == large.nbytes
