"""Answers in the order of arrival."""

from __future__ import annotations

import pytest

from jitney.backends.base import Request, Response
from jitney.server.call import Call
from jitney.server.errors import QueueTimeout
from jitney.server.ordering import OrderedAnswers
from jitney.server.repository.config import ModelConfig


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
    ordered, seen = OrderedAnswers(), []
    first, second = (Call(Request(), ModelConfig("m", "1", "python"), on_answer=seen.append) for _ in range(2))
    ordered.admit(first)
    ordered.admit(second)
    second.answer(Response(body=b"2"))
    first.answer(Response(body=b"1"))
    assert [answer.body for answer in seen if isinstance(answer, Response)] == [b"1", b"2"]
