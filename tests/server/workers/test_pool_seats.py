"""Batches for one worker and no other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import WorkerDied
from jitney.server.workers.pool import Seat
from jitney.tests.server.workers.conftest import LIMIT_S, call_to, eventually


def test_a_batch_runs_on_the_worker_it_is_for(bench: Callable[..., Any]) -> None:
    made = bench().up(2)
    seats = made.pool.seats()
    assert {seat.pid for seat in seats} == set(made.pids())
    for seat in (*seats, *seats):
        call = call_to("who")
        made.pool.execute_on(seat, [call])
        assert call.result(LIMIT_S).parameters["pid"] == seat.pid
        eventually(lambda: made.pool.idle() == 2)
    assert len(made.reports) == 4


def test_a_worker_that_is_busy_or_gone_does_not_pass_its_batch_on(bench: Callable[..., Any], tmp_path: Path) -> None:
    made = bench().up(2)
    seat = made.pool.seats()[0]
    running = call_to("listen", mark=str(tmp_path / "mark"))
    made.pool.execute_on(seat, [running])
    for wrong in (seat, seat._replace(serial=0), Seat(1, 1, 0, 1)):
        call = call_to("who")
        made.pool.execute_on(wrong, [call])
        with pytest.raises(WorkerDied, match="is gone"):
            call.result(LIMIT_S)
    eventually((tmp_path / "mark").exists)
    os.kill(seat.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="died"):
        running.result(LIMIT_S)
    assert seat not in made.pool.seats()
    eventually(lambda: len(made.pool.seats()) == 2)
    assert made.pool.seats()[0].worker == seat.worker, "the same worker, in another life"
    assert len(made.reports) == 4


def test_a_worker_that_leaves_has_no_seat(bench: Callable[..., Any]) -> None:
    made = bench().up(2)
    made.pool.scale(1)
    assert len(made.pool.seats()) == 1


def test_a_batch_whose_calls_are_over_is_only_reported(bench: Callable[..., Any]) -> None:
    made = bench().up(1)
    call = call_to("who")
    call.cancel()
    made.pool.execute_on(made.pool.seats()[0], [call])
    assert [report.calls for report in made.reports] == [[call]]
