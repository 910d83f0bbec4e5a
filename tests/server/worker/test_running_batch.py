"""`RunningBatch` over a socketpair, without a process: what a backend gets and what is sent for its answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from jitney.backends.base import Backend
from jitney.core.model_config import ModelConfig
from jitney.core.request import Failure, Instance, Request, Respond, Response
from jitney.core.tensor import Tensor
from jitney.server.ipc.memory import Region
from jitney.server.ipc.messages import WirePart, WireRequest, WireResponse
from jitney.server.worker.host import FrameHost
from jitney.server.worker.reply_memory import ReplyMemory
from jitney.server.worker.resting import Resting
from jitney.server.worker.running_batch import INLINE, LARGEST, RunningBatch
from jitney.server.workers.channel import MessageChannel
from jitney.server.workers.messages import Event, Execute, Results

RESPONSE = msgspec.msgpack.Decoder(WireResponse)


def failed(answer: Any) -> Failure:
    assert answer.error is not None
    found: Failure = answer.error
    return found


class Runner(Backend):
    """A backend whose `execute` is a function of the test, and the server's end of its socket."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.arena, self.reply = Region.create("arena", 1 << 16), Region.create("reply", 1 << 20)
        self.replies, self.resting = ReplyMemory(self.reply), Resting()
        self.executed: Callable[..., Any] = answer_all

    def load(self, model: ModelConfig, instance: Instance) -> None: ...

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        self.executed(requests, respond)

    def batch(self, *requests: WireRequest, decoupled: bool = False) -> RunningBatch:
        raw = [msgspec.Raw(msgspec.msgpack.encode(request)) for request in requests]
        return RunningBatch(Execute(7, raw), MessageChannel(self.theirs), self.arena, self.replies, self.resting, decoupled)

    def run(self, batch: RunningBatch, execute: Callable[..., Any]) -> tuple[Results, dict[int, WireResponse]]:
        """The message that ended the batch, and its answers by index."""
        self.executed = execute
        assert not batch.begin(self)
        results = MessageChannel(self.ours).receive()
        assert isinstance(results, Results)
        return results, {index: RESPONSE.decode(raw) for index, raw in results.responses}

    def close(self) -> None:
        for each in (self.ours, self.theirs, self.arena, self.reply):
            each.close()


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()


def request(data: Any = b"x", **fields: Any) -> WireRequest:
    named = {"id": "a", "tensors": [], "parts": [WirePart("body", "t/p", data)], "headers": {}, "parameters": {}}
    return WireRequest(**{**named, "outputs": (), "rows": 1, **fields})


def answer_all(requests: list[Request], respond: Callable[..., Any]) -> None:
    for index in range(len(requests)):
        respond(index, Response(body=b"%d" % index))


def test_requests_arrive_whole_and_know_whether_they_are_cancelled(runner: Runner) -> None:
    runner.arena.write(64, b"in shared memory")
    batch = runner.batch(request(b"inline", headers={"h": "v"}), request((64, 16), parts=[WirePart("p", "", (64, 16))]))
    seen: list[Any] = []

    def execute(requests: list[Request], respond: Callable[..., Any]) -> None:
        batch.cancel(1)
        seen.extend((bytes(part.data), dict(r.headers), r.is_cancelled()) for r in requests for part in r.parts)
        answer_all(requests, respond)

    results, answers = runner.run(batch, execute)
    assert seen == [(b"inline", {"h": "v"}, False), (b"in shared memory", {}, True)]
    assert (results.batch, results.done, sorted(answers)) == (7, True, [0, 1])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
@pytest.mark.parametrize("size", [0, 1, INLINE, INLINE + 1])
def test_bodies_of_every_kind_and_size(runner: Runner, kind: Any, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    _, answers = runner.run(runner.batch(request()), lambda requests, respond: respond(0, Response(body=kind(body))))
    sent = answers[0].body
    assert isinstance(sent, tuple) == (size > INLINE)
    assert (bytes(runner.reply.read(*sent)) if isinstance(sent, tuple) else bytes(sent or b"")) == body


def test_an_answer_carries_all_that_was_set(runner: Runner) -> None:
    response = Response([], b"b", 418, "Teapot", {"a": "1"}, {"p": 2})
    _, answers = runner.run(runner.batch(request()), lambda requests, respond: respond(0, response))
    assert answers[0] == WireResponse([], bytearray(b"b"), 418, "Teapot", {"a": "1"}, {"p": 2}, None, True)


def test_what_was_held_is_sent_with_the_answers(runner: Runner) -> None:
    batch = runner.batch(request())
    host = FrameHost(batch._channel)

    def execute(requests: list[Request], respond: Callable[..., Any]) -> None:
        host.emit("metric", {"n": 1}, held=True)
        answer_all(requests, respond)

    runner.executed = execute
    batch.begin(runner)
    server = MessageChannel(runner.ours)
    assert server.receive() == Event("metric", {"n": 1})
    done: Any = server.receive()
    assert done.done


@pytest.mark.parametrize("index", [-1, 2, "0", None, 0.0, np.int64(0)])
def test_an_answer_to_a_request_that_is_not_there(runner: Runner, index: Any) -> None:
    batch = runner.batch(request(), request())
    with pytest.raises(IndexError, match="of a batch of 2"):
        batch.respond(index, Response())


def test_a_second_answer_is_refused_unless_the_first_could_not_be_sent(runner: Runner) -> None:
    def execute(requests: list[Request], respond: Callable[..., Any]) -> None:
        respond(0, Response(headers={"x": object()}))  # type: ignore[dict-item]
        respond(0, Response(body=b"too late"))
        respond(1, Response(body=b"first"))
        with pytest.raises(RuntimeError, match="request 1 of the batch had its final response already"):
            respond(1, Response(body=b"second"))

    _, answers = runner.run(runner.batch(request(), request()), execute)
    assert "cannot be sent" in failed(answers[0]).message
    assert answers[1].body is not None and not isinstance(answers[1].body, tuple)
    assert bytes(answers[1].body) == b"first"


def test_what_is_left_open_fails_alone(runner: Runner) -> None:
    results, answers = runner.run(
        runner.batch(request(), request()), lambda requests, respond: respond(1, Response(error=Failure("mine")))
    )
    assert results.done
    assert failed(answers[0]).message == "the model answered 1 of 2 requests"
    assert failed(answers[1]).message == "mine"


def test_tensors_are_taken_before_respond_returns(runner: Runner) -> None:
    array = np.arange(4, dtype=np.float32)

    def execute(requests: list[Request], respond: Callable[..., Any]) -> None:
        respond(0, Response([Tensor.from_numpy("y", array)]))
        array[:] = -1

    _, answers = runner.run(runner.batch(request()), execute)
    (tensor,) = answers[0].tensors
    assert (tensor.name, tensor.datatype, tensor.shape) == ("y", "FP32", (4,))
    assert np.frombuffer(cast("bytes", tensor.data), np.float32).tolist() == [0, 1, 2, 3]


def test_answers_that_are_too_much_for_one_message_travel_in_several(runner: Runner) -> None:
    """Parameters and error texts go with the message whatever their size: the worker must not end over them."""
    text = "x" * (40 << 20)
    received: list[Any] = []
    reader = threading.Thread(target=lambda: received.extend(MessageChannel(runner.ours).receive() for _ in range(2)))
    reader.start()
    runner.executed = lambda requests, respond: [respond(index, Response(parameters={"k": text})) for index in range(2)]
    runner.batch(request(), request()).begin(runner)
    reader.join()
    assert [(results.done, [index for index, _ in results.responses]) for results in received] == [(False, [0]), (True, [1])]


@pytest.mark.parametrize("answer", [Response(parameters={"k": "x" * LARGEST}), Response(error=Failure("x" * LARGEST))])
def test_an_answer_that_no_message_holds_is_an_error(runner: Runner, answer: Response) -> None:
    _, answers = runner.run(runner.batch(request()), lambda requests, respond: respond(0, answer))
    assert answers[0].error is not None
    assert "at most" in failed(answers[0]).message


class Speechless(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("x" * LARGEST), "ValueError: " + "x" * 500 + " (… "),
        (ValueError("a \ud800 b"), "ValueError: a \\ud800 b"),
        (Speechless(), "Speechless: (its text cannot be had: __str__ raised SystemExit)"),
    ],
)
def test_an_exception_with_any_text_is_told(runner: Runner, error: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is on its way when an answer cannot be sent: the traceback of that one holds the text too."""
    monkeypatch.setattr("jitney.backends.telling.LONGEST", 1000)

    def fail(requests: list[Request], respond: Callable[..., Any]) -> None:
        try:
            raise error
        finally:
            respond(0, Response(parameters={"k": object()}))  # type: ignore[dict-item]

    _, answers = runner.run(runner.batch(request(), request()), fail)
    assert failed(answers[1]).message.startswith(told)
    assert len(failed(answers[1]).message) < 1100
    assert "Traceback" in failed(answers[1]).detail


@pytest.mark.parametrize(
    "ask",
    [
        lambda host: host.infer(b"model", "", Request()),
        lambda host: host.infer("model", 1, Request()),
        lambda host: host.infer("model", "", Request(tensors=[Tensor(b"name", "FP32", (1,), bytes(4))])),  # type: ignore[arg-type]
        lambda host: host.infer("model", "", Request(tensors=[Tensor("name", "FP32", (1.5,), bytes(4))])),  # type: ignore[arg-type]
        lambda host: host.infer("model", "", Request(parameters={"k": [1]})),  # type: ignore[dict-item]
        lambda host: host.infer("model", "", Request(outputs=(b"out",))),  # type: ignore[arg-type]
        lambda host: host.control("load", b"model", {}),
        lambda host: host.control("load", None, {}),
    ],
)
def test_a_call_that_the_server_could_not_read_is_not_sent(runner: Runner, ask: Callable[..., Any]) -> None:
    """The server would end the worker for it."""
    host = FrameHost(MessageChannel(runner.theirs))
    with pytest.raises(TypeError, match="cannot be sent"):
        ask(host)
    assert not host.waiting()
    runner.theirs.close()
    assert runner.ours.recv(1) == b""
