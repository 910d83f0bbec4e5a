"""What models ask of the server while they run."""

from __future__ import annotations

import functools
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest

from jitney.core.errors import InvalidTensor, ModelFailed, ModelNotFound, ModelNotReady, QueueFull, Unsupported, WorkerDied
from jitney.core.request import Failure, Response
from jitney.core.tensor import Tensor
from jitney.server.workers import host_calls
from jitney.server.workers.host_calls import failure_of

from .conftest import LIMIT_S, call_to, eventually


class Server:
    """Models that are functions of this process."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.closed, self.entered = threading.Event(), threading.Event()
        self.go = threading.Event()

    def infer(self, model: Any, version: Any, request: Any) -> Any:
        self.asked.append((model, version))
        return getattr(self, model)(request)

    def double(self, request: Any) -> Iterator[Response]:
        yield Response([Tensor.from_numpy("y", request.tensors[0].numpy() * 2)], parameters={"by": "double"})

    def stream(self, request: Any) -> Iterator[Response]:
        for n in range(3):
            yield Response(body=bytes([n]), final=n == 2)

    def endless(self, request: Any) -> Iterator[Response]:
        try:
            while True:
                yield Response(body=b"more", final=False)
        finally:
            self.closed.set()

    def slow(self, request: Any) -> Iterator[Response]:
        self.entered.set()
        assert self.go.wait(LIMIT_S)
        yield Response(body=b"at last")

    def silent(self, request: Any) -> Iterator[Response]:
        yield from ()

    def absent(self, request: Any) -> None:
        raise ModelNotFound("absent")

    def failing(self, request: Any) -> Iterator[Response]:
        yield Response(error=Failure("inner failure", "UNAVAILABLE"))

    def broken(self, request: Any) -> None:
        raise KeyError("a defect")

    def huge(self, request: Any) -> Iterator[Response]:
        yield Response(body=bytes(65 << 20))

    def control(self, verb: Any, model: Any, arguments: Any) -> Any:
        if model == "other":
            return [verb, arguments]
        raise ModelNotFound(model)


@pytest.fixture
def server() -> Server:
    return Server()


def ask(b: Any, of: Any, **fields: Any) -> Any:
    (call,) = b.send(call_to("ask", of=of, **fields))
    return call


def test_infer_runs_another_model(bench: Callable[..., Any], server: Server) -> None:
    b = bench(host=server).up()
    response = ask(b, "double", tensors=[np.arange(5000)]).result(LIMIT_S)
    assert (response.tensors[0].numpy() == np.arange(5000) * 2).all()
    assert response.parameters == {"by": "double"}
    assert server.asked == [("double", "")]


def test_infer_streams(bench: Callable[..., Any], server: Server) -> None:
    b = bench(host=server).up()
    assert [bytes(r.body) for r in ask(b, "stream", tensors=[[1.0]]).stream(LIMIT_S)] == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize(
    ("of", "code", "message"),
    [
        ("absent", "NOT_FOUND", "model 'absent' is not found"),
        ("failing", "UNAVAILABLE", "inner failure"),
        ("broken", "INTERNAL", "KeyError: 'a defect'"),
        ("silent", "INTERNAL", "ended without a final response"),
        ("huge", "INTERNAL", "over the limit"),
    ],
)
def test_errors_reach_the_model_with_their_code(
    bench: Callable[..., Any], server: Server, of: str, code: str, message: str
) -> None:
    b = bench(host=server).up()
    with pytest.raises(ModelFailed, match=message) as caught:
        ask(b, of, tensors=[[1.0]]).result(LIMIT_S)
    assert caught.value.code == code
    assert ask(b, "double", tensors=[[1.0]]).result(LIMIT_S).final


def test_a_model_that_wants_no_more_stops_the_other(bench: Callable[..., Any], server: Server) -> None:
    b = bench(host=server).up()
    (call,) = b.send(call_to("peek", of="endless"))
    assert bytes(call.result(LIMIT_S).body) == b"more"
    assert server.closed.wait(LIMIT_S)


def test_a_waiting_host_call_keeps_nothing_else_from_being_answered(bench: Callable[..., Any], server: Server) -> None:
    b = bench(host=server).up(2)
    slow = ask(b, "slow", tensors=[[1.0]])
    assert server.entered.wait(LIMIT_S)
    assert b.ask("emit").final
    b.events.clear()
    assert not slow.done
    server.go.set()
    assert bytes(slow.result(LIMIT_S).body) == b"at last"


def test_a_worker_that_dies_takes_its_host_calls_along(bench: Callable[..., Any], server: Server) -> None:
    b = bench(host=server, response_timeout_s=0.5).up()
    call = ask(b, "slow", tensors=[[1.0]])
    assert server.entered.wait(LIMIT_S)
    with pytest.raises(WorkerDied):
        call.result(LIMIT_S)
    server.go.set()
    eventually(lambda: not b.pool._host_calls._running)


class Waiting:
    """Another model's responses, as the server gives them: nothing until `cancel`, perhaps at work."""

    def __init__(self, underway: bool) -> None:
        self.underway, self.ended, self.error = underway, threading.Event(), None

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> None:
        assert self.ended.wait(LIMIT_S)
        if self.error is None:
            raise StopIteration
        raise self.error

    def cancel(self, error: Any = None) -> None:
        self.error = self.error or error
        self.ended.set()


def test_a_worker_that_waits_for_one_that_works_is_not_to_blame(bench: Callable[..., Any], server: Server) -> None:
    waiting = Waiting(underway=True)
    vars(server)["busy"] = lambda request: waiting
    b = bench(host=server, response_timeout_s=0.3).up()
    call = ask(b, "busy", tensors=[[1.0]])
    assert not waiting.ended.wait(1.5)  # five times its own limit
    waiting.cancel(WorkerDied("the other one took too long"))
    with pytest.raises(ModelFailed, match="the other one took too long"):
        call.result(LIMIT_S)
    assert b.pool.workers()[0].restarts == 0


def test_a_request_that_no_worker_takes_ends_with_an_error_for_the_model_that_made_it(
    bench: Callable[..., Any], server: Server
) -> None:
    vars(server)["stuck"] = lambda request: Waiting(underway=False)
    b = bench(host=server, response_timeout_s=0.3).up()
    with pytest.raises(ModelFailed, match=r"no worker took the request within 0\.3 s") as caught:
        ask(b, "stuck", tensors=[[1.0]]).result(LIMIT_S)
    assert caught.value.code == "UNAVAILABLE"
    assert b.pool.workers()[0].restarts == 0


def test_control_passes_plain_data(bench: Callable[..., Any], server: Server) -> None:
    b = bench(host=server).up()
    (call,) = b.send(call_to("control"))
    # A response's parameters are scalars, so the list that came back is refused by name and not in silence.
    with pytest.raises(ModelFailed, match="cannot be understood"):
        call.result(LIMIT_S)
    vars(server)["control"] = lambda verb, model, arguments: f"{verb} {model} {arguments}"
    assert b.ask("control").parameters == {"ready": "is_ready other {'deep': [1, 2]}"}


def test_control_refused(bench: Callable[..., Any], server: Server) -> None:
    def refuse(verb: Any, model: Any, arguments: Any) -> None:
        raise Unsupported("not in this mode")

    vars(server)["control"] = refuse
    b = bench(host=server).up()
    (call,) = b.send(call_to("control"))
    with pytest.raises(ModelFailed, match="not in this mode") as caught:
        call.result(LIMIT_S)
    assert caught.value.code == "UNSUPPORTED"


def test_without_a_server_behind_it_a_model_is_told_so(bench: Callable[..., Any]) -> None:
    b = bench().up()
    with pytest.raises(ModelFailed, match="offers no other models"):
        ask(b, "double", tensors=[[1.0]]).result(LIMIT_S)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidTensor("x"), "INVALID_ARG"),
        (ModelNotReady("m", "1", "x"), "UNAVAILABLE"),
        (QueueFull("x"), "UNAVAILABLE"),
        (ModelFailed("x", "OUT_OF_MEMORY"), "OUT_OF_MEMORY"),
        (WorkerDied("x"), "INTERNAL"),
        (OSError("x"), "INTERNAL"),
    ],
)
def test_codes(error: Any, code: str) -> None:
    assert failure_of(error).code == code


def test_what_was_underway_waits_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble replies once, at its end: while its second step is in a queue, its first has not been waiting."""
    now, child = [100.0], type("Child", (), {"heard": 100.0})()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    asked = host_calls._Asked("infer")
    desk = types.SimpleNamespace(_running={(child, 1): asked})
    for at, underway, excused in [(109.0, True, 119.0), (112.0, False, 119.0), (118.9, False, 119.0), (119.1, False, 129.1)]:
        now[0] = at
        monkeypatch.setattr(host_calls._Asked, "underway", property(functools.partial(lambda it, _: it, underway)))
        assert host_calls.HostCalls.excused(cast("host_calls.HostCalls", desk), child, 10.0) == pytest.approx(excused)
        assert asked.is_cancelled() == (at > 119)
