"""Answers in the order of arrival."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jitney.core.call import Call
from jitney.core.errors import QueueTimeout
from jitney.core.model_config import ModelConfig
from jitney.core.request import Request, Response
from jitney.server.serving.ordering import OrderedAnswers


def calls(ordered: OrderedAnswers, count: int) -> list[Call]:
    made = [Call(Request(), ModelConfig("m", "1", "python")) for _ in range(count)]
    for call in made:
        ordered.admit(call)
    return made


def test_a_later_answer_waits_for_the_earlier_ones() -> None:
    first, second, third = calls(OrderedAnswers(), 3)
    third.answer(Response(body=b"3"))
    second.answer(Response(body=b"2"))
    assert [call.delivered for call in (first, second, third)] == [0, 0, 0]
    first.answer(Response(body=b"1"))
    assert [call.result(0).body for call in (first, second, third)] == [b"1", b"2", b"3"]


def test_a_call_that_expires_is_answered_at_once_and_keeps_nobody_waiting() -> None:
    ordered = OrderedAnswers()
    first, second, third = calls(ordered, 3)
    second.fail(QueueTimeout("too late"))
    ordered.withdraw(second)
    with pytest.raises(QueueTimeout):
        second.result(0)
    third.answer(Response(body=b"3"))
    assert not third.delivered
    first.answer(Response(body=b"1"))
    assert third.result(0).body == b"3"


def test_a_call_that_was_refused_keeps_nobody_waiting() -> None:
    ordered = OrderedAnswers()
    first, second = calls(ordered, 2)
    second.answer(Response(body=b"2"))
    ordered.withdraw(first)
    assert second.result(0).body == b"2"
    assert not first.delivered


def test_answers_go_where_the_call_wants_them() -> None:
    ordered = OrderedAnswers()
    seen: list[Any] = []
    first, second = (Call(Request(), ModelConfig("m", "1", "python"), on_answer=seen.append) for _ in range(2))
    ordered.admit(first)
    ordered.admit(second)
    second.answer(Response(body=b"2"))
    first.answer(Response(body=b"1"))
    assert [answer.body for answer in seen if isinstance(answer, Response)] == [b"1", b"2"]


def test_two_models_whose_answers_go_on_to_each_other_do_not_wait_for_each_other() -> None:
    one, other = OrderedAnswers(), OrderedAnswers()
    both_hand_on = threading.Barrier(2)

    def answered_into(ordered: OrderedAnswers) -> Call:
        def go_on(answer: object) -> None:
            both_hand_on.wait(10)
            ordered.admit(Call(Request(), ModelConfig("m", "1", "python")))

        return Call(Request(), ModelConfig("m", "1", "python"), on_answer=go_on)

    first, second = answered_into(other), answered_into(one)
    one.admit(first)
    other.admit(second)
    threads = [threading.Thread(target=call.answer, args=(Response(),), daemon=True) for call in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_an_answer_that_brings_others_on_the_same_thread_does_not_overtake_them() -> None:
    ordered = OrderedAnswers()
    seen: list[Any] = []
    config = ModelConfig("m", "1", "python")

    def first_answered(answer: object) -> None:
        second.answer(Response(body=b"2"))
        seen.append("1")

    first = Call(Request(), config, on_answer=first_answered)
    second = Call(Request(), config, on_answer=lambda answer: seen.append("2"))
    for call in (first, second):
        ordered.admit(call)
    first.answer(Response(body=b"1"))
    assert seen == ["1", "2"]


def test_a_stream_is_handed_on_whole_before_the_next_call_is_answered() -> None:
    first, second = calls(OrderedAnswers(), 2)
    second.answer(Response(body=b"a", final=False))
    second.answer(Response(body=b"b"))
    first.answer(Response(body=b"1", final=False))
    assert first.result(0).body == b"1"
    assert not second.delivered
    first.answer(Response(body=b"2"))
    assert first.result(0).body == b"2"
    assert [second.result(0).body for _ in range(2)] == [b"a", b"b"]


def test_an_answer_that_nobody_can_take_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(answer: object) -> None:
        raise RuntimeError("the loop is closed")

    ordered, config = OrderedAnswers(), ModelConfig("m", "1", "python")
    first, second = Call(Request(), config, on_answer=refuse), Call(Request(), config)
    ordered.admit(first)
    ordered.admit(second)
    second.answer(Response(body=b"2"))
    first.answer(Response(body=b"1"))
    assert second.result(0).body == b"2"
    assert "the loop is closed" in caplog.text
