"""The books of a pool: which batches run, which wait, and that each is reported once."""

from __future__ import annotations

import threading

import pytest

from jitney.core.call import Call
from jitney.core.errors import NoWorkers, QueueTimeout
from jitney.core.request import Request, Response
from jitney.server.workers.batches import Batches
from jitney.server.workers.messages import Results
from jitney.server.workers.running_calls import BatchReport


@pytest.fixture
def reports() -> list[BatchReport]:
    return []


@pytest.fixture
def batches(reports: list[BatchReport]) -> Batches:
    return Batches("m", threading.Lock(), reports.append)


def test_a_batch_has_its_number_until_it_is_reported(batches: Batches, reports: list[BatchReport]) -> None:
    calls = [Call(Request()), Call(Request())]
    first, second = batches.begin(calls[:1]), batches.begin(calls[1:], pinned=True)
    assert batches.running == {first.number: first, second.number: second}
    assert (first.pinned, second.pinned) == (False, True)
    batches.report(first, "m_0_0", Results(first.number, [], done=True, infer_ns=7))
    batches.fail(second, NoWorkers("none"), "m_0_1")
    assert batches.running == {}
    assert [(report.calls, report.worker, report.ok) for report in reports] == [
        (calls[:1], "m_0_0", True),
        (calls[1:], "m_0_1", False),
    ]
    assert reports[0].durations == (0, 7, 0)
    with pytest.raises(NoWorkers):
        calls[1].result(0)


def test_what_waits_and_has_nobody_to_answer_is_dropped(batches: Batches, reports: list[BatchReport]) -> None:
    calls = [Call(Request()) for _ in range(3)]
    batches.waiting.extend(batches.begin([call]) for call in calls)
    calls[1].fail(QueueTimeout("its client has left"))
    batches.drop_answered()
    assert [batch.calls for batch in batches.waiting] == [[calls[0]], [calls[2]]]
    assert [report.calls for report in reports] == [[calls[1]]]
    assert len(batches.take_out(lambda batch: batch.calls == [calls[2]])) == 1
    assert [batch.calls for batch in batches.waiting] == [[calls[0]]]


def test_a_callback_that_fails_is_logged_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken(report: BatchReport) -> None:
        raise RuntimeError("broken callback")

    batches = Batches("m", threading.Lock(), broken)
    call = Call(Request())
    batch = batches.begin([call])
    call.answer(Response())
    batches.report(batch)
    batches.call_back(None)
    assert "broken callback" in caplog.text
    assert batches.running == {}
