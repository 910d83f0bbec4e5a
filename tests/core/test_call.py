"""`Call`: exactly one final answer, whoever comes first."""

from __future__ import annotations

import threading

import pytest

from jitney.core.call import Call
from jitney.core.errors import Cancelled, ModelFailed, QueueTimeout
from jitney.core.request import Failure, Request, Response


def test_the_first_final_answer_wins_and_later_ones_are_dropped() -> None:
    call = Call(Request())
    assert call.answer(Response(body=b"a"))
    assert not call.fail(QueueTimeout("late"))
    assert not call.answer(Response(body=b"b"))
    assert call.done
    assert call.result(0).body == b"a"
    with pytest.raises(TimeoutError):
        call.result(0)


def test_a_failure_in_a_response_becomes_the_error_it_describes() -> None:
    call = Call(Request())
    call.answer(Response(error=Failure("no such word", code="INVALID_ARG", status=422, by_model=True)))
    with pytest.raises(ModelFailed, match="no such word") as caught:
        call.result(0)
    assert (caught.value.code, caught.value.status, caught.value.by_model) == ("INVALID_ARG", 422, True)


def test_a_stream_ends_with_its_final_response() -> None:
    call = Call(Request())
    for body, final in ((b"1", False), (b"2", False), (b"3", True)):
        call.answer(Response(body=body, final=final))
    assert not call.answer(Response(body=b"4", final=False))
    assert [response.body for response in call.stream(0)] == [b"1", b"2", b"3"]


def test_an_error_that_is_not_final_is_a_part_of_the_stream() -> None:
    call = Call(Request())
    for response in (Response(error=Failure("one"), final=False), Response(body=b"2", final=False), Response()):
        assert call.answer(response)
    assert [(response.error and response.error.message, response.body) for response in call.stream(0)] == [
        ("one", None),
        (None, b"2"),
        (None, None),
    ]
    assert call.error is None


def test_cancelling_leaves_nothing_to_answer() -> None:
    call = Call(Request())
    assert call.cancel()
    assert not call.answer(Response())
    assert isinstance(call.error, Cancelled)


def test_waiting_ends_in_time_whatever_the_timeout() -> None:
    call = Call(Request())
    for _ in range(20_000):
        with pytest.raises(TimeoutError):
            call.result(1e-6)


def test_an_answer_wakes_the_thread_that_waits() -> None:
    call = Call(Request())
    answerer = threading.Thread(target=lambda: [call.answer(Response(body=bytes([i]), final=i == 99)) for i in range(100)])
    answerer.start()
    assert [response.body for response in call.stream(10)] == [bytes([i]) for i in range(100)]
    answerer.join()
