"""What a worker's crash costs the others in its batch: nothing, where the model wants its requests to run again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.call import Call
from jitney.core.errors import WorkerTimeout
from jitney.server.workers.running_calls import RunningCalls

from .conftest import LIMIT_S, call_to, error_of, eventually

pytestmark = pytest.mark.usefixtures("reading")


def test_of_a_batch_that_ended_its_worker_only_the_bad_one_fails(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(retry_after_crash=True).up()
    (pid,) = b.pids()
    calls = [call_to("die" if n == 2 else "who", tensors=[np.zeros(9000)]) for n in range(5)]
    b.send(*calls)
    assert "killed by SIGKILL" in str(error_of(calls[2]))
    for call in (*calls[:2], *calls[3:]):
        assert call.result(LIMIT_S).parameters["pid"] != pid
    eventually(lambda: sum(len(report.calls) for report in b.reports) == 5)
    assert [report.ok for report in b.reports].count(False) == 1
    assert b.fatal == []  # a SIGKILL blames nobody
    assert b.pool.workers()[0].restarts == 2


def test_one_that_had_a_part_of_its_answer_is_not_run_again(bench: Callable[..., Any]) -> None:
    b = bench(retry_after_crash=True).up()
    stream, killer = b.send(call_to("half", size=5), call_to("exit"))
    assert bytes(stream.result(LIMIT_S).body) == b"hello"
    error_of(stream)
    assert "SystemExit: 3" in str(error_of(killer))
    assert len(eventually(lambda: len(b.reports) == 2 and b.reports)) == 2


def test_a_lone_request_is_run_again_unless_the_model_may_have_changed_it(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(retry_after_crash=True).up()
    once = tmp_path / "once"
    (small,) = b.send(call_to("die_once", mark=str(once)))
    assert small.result(LIMIT_S).final
    once.unlink()
    (large,) = b.send(call_to("die_once", mark=str(once), tensors=[np.zeros(9000)]))
    error_of(large)


def test_an_input_that_crashes_its_worker_alone_is_to_blame(bench: Callable[..., Any]) -> None:
    b = bench(retry_after_crash=True).up()
    (call,) = b.send(call_to("crash"))
    assert "SIGSEGV" in str(error_of(call))
    assert b.fatal == [call]


def test_whoever_only_was_in_the_same_worker_is_not_to_blame(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True).up()
    calls = [
        b.send(call_to("later", until=str(tmp_path / "never"), tensors=[[n]]))[0]
        for n in range(2)
        if eventually(b.pool.idle)
    ]
    eventually(b.pool.idle)
    calls += b.send(call_to("crash"))
    for call in calls:
        error_of(call)
    assert b.fatal == []


def test_a_batch_of_bad_requests_costs_no_more_than_two_workers_besides_its_own(bench: Callable[..., Any]) -> None:
    b = bench(retry_after_crash=True).up()
    calls = [call_to("crash") for _ in range(8)]
    b.send(*calls)
    for call in calls:
        error_of(call)
    eventually(b.pool.idle)
    assert b.pool.workers()[0].restarts == 3
    assert sum(len(report.calls) for report in b.reports) == 8


def test_a_client_that_leaves_while_its_batch_is_divided(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(retry_after_crash=True).up()
    leaves, stays, bad = call_to(), call_to("who"), call_to("crash")
    untouched = RunningCalls.untouched

    def leave(batch: RunningCalls) -> list[Call]:
        found = untouched(batch)
        leaves.cancel()
        return found

    monkeypatch.setattr(RunningCalls, "untouched", leave)
    b.send(leaves, stays, bad)
    assert stays.result(LIMIT_S).parameters["pid"]
    error_of(bad)
    eventually(lambda: sum(len(report.calls) for report in b.reports) == 3)
    assert eventually(b.pool.idle) == 1


def test_a_lost_device_is_a_crash_like_any_other(bench: Callable[..., Any]) -> None:
    b = bench(retry_after_crash=True).up()
    good, bad = b.send(call_to(), call_to("lose"))
    assert "lost its device" in str(error_of(bad))
    assert good.result(LIMIT_S).final


def test_what_hung_is_not_run_again(bench: Callable[..., Any]) -> None:
    b = bench(retry_after_crash=True, response_timeout_s=0.5).up()
    for call in b.send(call_to(), call_to("hang")):
        error_of(call, WorkerTimeout)
    assert eventually(b.pool.idle) == 1


def test_without_a_worker_to_come_nothing_is_run_again(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(retry_after_crash=True).up()
    mark = tmp_path / "mark"
    calls = b.send(call_to("wait", until=str(tmp_path / "never"), mark=str(mark)), call_to())
    eventually(lambda: mark.exists() and mark.read_text())
    (pid,) = b.pids()
    b.pool.scale(0)
    os.kill(pid, signal.SIGKILL)
    for call in calls:
        error_of(call)
