"""Batches on their way to a worker: to this one and no other, to the next that is free, or to none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jitney.core.errors import Draining, NoWorkers, WorkerDied
from jitney.server.workers import worker_process
from jitney.server.workers.delivery import Delivery
from jitney.server.workers.running_calls import RunningCalls
from jitney.server.workers.status import Seat
from jitney.server.workers.worker_process import WorkerProcess

from .conftest import LIMIT_S, call_to, eventually

pytestmark = pytest.mark.usefixtures("reading")


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


def test_a_batch_that_fits_no_message_is_refused_and_the_worker_stays(bench: Callable[..., Any]) -> None:
    b = bench().up()
    call = call_to(tensors=[np.zeros(9 << 20)])  # 72 MiB, and no slots
    b.pool.execute([call])
    with pytest.raises(Exception, match="over the limit"):
        call.result(LIMIT_S)
    assert b.ask().final


def test_without_workers_a_batch_is_refused_and_after_the_end_too(bench: Callable[..., Any]) -> None:
    b = bench()
    (call,) = b.send(call_to())
    with pytest.raises(NoWorkers):
        call.result(LIMIT_S)
    b.pool.stop(1)
    (call,) = b.send(call_to())
    with pytest.raises(Draining):
        call.result(LIMIT_S)
    with pytest.raises(Draining):
        b.pool.start(1)


def test_more_batches_than_workers_wait_for_one(bench: Callable[..., Any]) -> None:
    b = bench().up(2)
    calls = [b.send(call_to(tensors=[np.full(3000, n)]))[0] for n in range(20)]
    for n, call in enumerate(calls):
        assert (call.result(LIMIT_S).tensors[0].numpy() == n).all()
    eventually(lambda: b.pool.idle() == 2)


#: A step of a batch's way to its worker, and the worker's process by what the step is called with.
Step = tuple[type, str, Callable[[Any], "WorkerProcess | None"]]
ABOUT_TO: Step = (RunningCalls, "note_start", lambda batch: batch.process)
WRITING: Step = (WorkerProcess, "execute", lambda child: child)


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the first worker to which a batch goes die at a step, which goes on when the end is known, and what it held."""
    known = threading.Event()
    lost = Delivery.lost

    def heard(delivery: Delivery, *arguments: Any) -> None:
        lost(delivery, *arguments)
        known.set()

    def end(child: WorkerProcess | None) -> None:
        if child is not None and not known.is_set():
            os.kill(child.pid, signal.SIGKILL)
            assert known.wait(LIMIT_S)

    def at(step: Step, *, after: bool = False) -> None:
        owner, name, child_of = step
        own = getattr(owner, name)

        def replaced(subject: Any, *arguments: Any) -> Any:
            found = own(subject, *arguments) if after else None
            end(child_of(subject))
            return found if after else own(subject, *arguments)

        monkeypatch.setattr(owner, name, replaced)

    monkeypatch.setattr(Delivery, "lost", heard)
    return at


@pytest.mark.parametrize("step", [ABOUT_TO, WRITING], ids=["before", "while"])
def test_a_worker_that_dies_before_it_has_the_batch_does_not_fail_it(
    bench: Callable[..., Any], dies: Callable[..., None], step: Step
) -> None:
    made = bench().up(2)
    dies(step)
    assert "pid" in made.ask("who").parameters
    eventually(lambda: made.pool.idle() == 2)
    assert made.ask("who").final
    eventually(lambda: made.pool.idle() == 2)
    assert sorted(worker.restarts for worker in made.pool.workers()) == [0, 1], "the batch was run once"
    assert len(made.reports) == 2


def test_a_worker_that_dies_when_the_batch_was_written_fails_it(
    bench: Callable[..., Any], dies: Callable[..., None]
) -> None:
    made = bench().up(2)
    dies(WRITING, after=True)
    with pytest.raises(WorkerDied, match="died"):
        made.ask("listen")
    assert len(made.reports) == 1


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def test_nobody_waits_for_a_worker_that_does_not_run_just_now(bench: Callable[..., Any]) -> None:
    """The thread that hands it a batch may be the one of all connections."""
    made = bench().up()
    (pid,) = made.pids()
    stop(pid)
    call = call_to("who", tensors=[np.zeros(100_000)])  # more than a socket takes, and no slots
    made.pool.execute([call])
    assert not call.done and made.pids() == [pid]
    os.kill(pid, signal.SIGCONT)
    assert call.result(LIMIT_S).parameters["pid"] == pid
    assert made.ask("who").parameters["pid"] == pid


def test_another_worker_gets_the_batch_of_one_that_does_not_read(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_SEND_TIMEOUT_S", 0.1)
    made = bench().up()
    (pid,) = made.pids()
    stop(pid)
    call = call_to("who", tensors=[np.zeros(100_000)])
    made.pool.execute([call])
    assert call.result(LIMIT_S).parameters["pid"] != pid
    assert made.pool.workers()[0].restarts == 1


@pytest.mark.parametrize("step", [ABOUT_TO, WRITING], ids=["before", "while"])
def test_a_pinned_batch_is_not_given_to_another_worker(
    bench: Callable[..., Any], dies: Callable[..., None], step: Step
) -> None:
    made, call = bench().up(2), call_to("who")
    dies(step)
    made.pool.execute_on(made.pool.seats()[0], [call])
    with pytest.raises(WorkerDied, match="died"):
        call.result(LIMIT_S)
