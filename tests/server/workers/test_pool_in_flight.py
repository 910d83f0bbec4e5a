"""Several batches in one worker: left open by models that answer when they please, or sent ahead while another runs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.errors import JitneyError, WorkerDied, WorkerTimeout
from jitney.server.workers.running_calls import RunningCalls
from jitney.server.workers.worker_process import WorkerProcess
from jitney.server.workers.worker_state import WorkerState

from .conftest import LIMIT_S, call_to, eventually

pytestmark = pytest.mark.usefixtures("reading")


def test_a_decoupled_worker_takes_the_next_batch_while_answers_of_the_last_are_to_come(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    b = bench(decoupled=True).up()
    until = tmp_path / "go"
    later = [b.send(call_to("later", until=str(until), tensors=[[n]]))[0] for n in range(5) if eventually(b.pool.idle)]
    assert b.ask().final
    assert eventually(lambda: len(b.reports)) == 1
    assert b.pool.workers()[0].state is WorkerState.BUSY
    until.write_text("")
    for n, call in enumerate(later):
        first, last = call.stream(LIMIT_S)
        assert (bytes(first.body), last.tensors[0].numpy().tolist()) == (b"first", [n])
    eventually(lambda: b.pool.workers()[0].state is WorkerState.READY)
    assert sorted(report.calls[0] is later[0] for report in b.reports) == [False] * 5 + [True]


def test_a_worker_holds_no_more_open_batches_than_it_may(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True, max_in_flight=2).up()
    until = tmp_path / "go"
    for _ in range(2):
        eventually(b.pool.idle)
        b.send(call_to("later", until=str(until), tensors=[[1]]))
    waits = b.send(call_to())[0]
    time.sleep(0.05)
    assert (b.pool.idle(), waits.done) == (0, False)
    until.write_text("")
    assert waits.result(LIMIT_S).final


def test_one_open_request_that_says_nothing_fails_alone(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True, response_timeout_s=0.5).up()
    (pid,) = b.pids()
    until = tmp_path / "never"
    (late,) = b.send(call_to("later", until=str(until), tensors=[np.zeros(5000)]))
    with pytest.raises(WorkerTimeout, match=r"did not answer within 0\.5 s"):
        late.result(LIMIT_S)
    assert (b.ask().final, b.pids()) == (True, [pid])
    assert late.slots  # the model may still be reading its input
    until.write_text("")
    eventually(lambda: len(b.reports) == 2)
    assert b.pool.idle() == 1


def test_a_worker_whose_execute_hangs_is_replaced_with_all_that_it_holds(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True, response_timeout_s=0.5).up()
    (pid,) = b.pids()
    (later,) = b.send(call_to("later", until=str(tmp_path / "never"), tensors=[[1]]))
    eventually(b.pool.idle)
    (hangs,) = b.send(call_to("hang"))
    for call in (hangs, later):
        with pytest.raises(WorkerTimeout):
            call.result(LIMIT_S)
    eventually(lambda: b.pids() not in ([], [pid]))


def test_a_thousand_open_requests_end_once_whatever_happens(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Random ends, cancellations, and deaths of the worker."""
    chance, answers = random.Random(7), Counter[int]()
    b = bench(decoupled=True, max_in_flight=1000).up()
    go = [tmp_path / f"go{n}" for n in range(10)]
    calls = []
    for n in range(1000):
        call = call_to("later", until=str(go[n % 10]), tensors=[np.full(chance.choice([1, 4000]), n)])
        call.on_answer = lambda answer, n=n: answers.update([n] if isinstance(answer, JitneyError) or answer.final else [])
        calls.append(call)

    def send() -> None:
        for call in calls:
            b.send(call)
            eventually(b.pool.idle)

    sender = threading.Thread(target=send)
    sender.start()
    for file in go[:5]:
        time.sleep(0.1)
        for call in chance.sample(calls, 30):
            if call.times.dispatched:
                b.pool.cancel(call)
        file.write_text("")
    for pid in b.pids():
        os.kill(pid, signal.SIGKILL)
    for file in go[5:]:
        file.write_text("")
    sender.join(LIMIT_S)
    eventually(lambda: len(b.reports) == 1000)
    assert answers == Counter(range(1000))
    assert b.pool.workers()[0].restarts == 1


def test_a_worker_that_leaves_does_not_wait_for_what_nobody_waits_for(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True, response_timeout_s=0.3).up(2)
    late = [b.send(call_to("later", until=str(tmp_path / "never"), tensors=[[n]]))[0] for n in range(2)]
    with pytest.raises(WorkerTimeout):
        late[0].result(LIMIT_S)
    b.pool.scale(1)
    eventually(lambda: len(b.pool.workers()) == 1, limit=5)
    (after,) = b.send(call_to("later", until=str(tmp_path / "never"), tensors=[[2]]))
    b.pool.scale(0)
    with pytest.raises(WorkerTimeout):
        after.result(LIMIT_S)
    eventually(lambda: not b.pool.workers(), limit=5)
    assert not b.pool.busy()
    eventually(lambda: len(b.reports) == 3)


def test_a_late_answer_of_a_sequence_ends_its_worker(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Without that answer the sequence could never go on."""
    b = bench(decoupled=True, response_timeout_s=0.3).up()
    (seat,) = b.pool.seats()
    call = call_to("later", until=str(tmp_path / "never"), tensors=[[1]])
    b.pool.execute_on(seat, [call])
    with pytest.raises(WorkerTimeout):
        call.result(LIMIT_S)
    eventually(lambda: b.pool.seats() not in ([], [seat]))


def test_a_sequence_s_worker_takes_its_batch_however_many_are_open(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(decoupled=True, max_in_flight=1).up()
    (seat,) = b.pool.seats()
    until = tmp_path / "go"
    first = call_to("later", until=str(until), tensors=[[1]])
    b.pool.execute_on(seat, [first])
    eventually(lambda: b.returned)
    second = call_to()
    b.pool.execute_on(seat, [second])
    assert second.result(LIMIT_S).final
    until.write_text("")
    assert len(list(first.stream(LIMIT_S))) == 2


# ---- sent ahead


def held(b: Any, tmp_path: Path, name: str = "") -> tuple[Any, Path]:
    """A batch that runs until the file is there."""
    until, mark = tmp_path / f"until{name}", tmp_path / f"mark{name}"
    (call,) = b.send(call_to("wait", until=str(until), mark=str(mark)))
    eventually(lambda: mark.exists() and mark.read_text())
    return call, until


def test_a_batch_that_was_sent_ahead_runs_when_the_one_before_is_over(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(max_in_flight=2).up()
    assert b.pool.ahead() == 0
    running, until = held(b, tmp_path)
    assert (b.pool.idle(), b.pool.ahead()) == (0, 1)
    waits, third = b.send(call_to(tensors=[np.arange(9000)]))[0], call_to()
    assert b.pool.ahead() == 0
    b.send(third)
    until.write_text("")
    assert running.result(LIMIT_S).parameters["pid"] == b.pids()[0]
    assert waits.result(LIMIT_S).tensors[0].numpy()[-1] == 8999
    assert third.result(LIMIT_S).final
    assert eventually(b.pool.idle) == 1


def test_a_batch_that_a_busy_worker_s_socket_may_not_take_waits_outside(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that sends it, which may be that of all connections, would wait for the worker to read."""
    b = bench(max_in_flight=2).up()
    running, until = held(b, tmp_path)
    calls = [call_to(parts=[("body", bytes([n]) * 7000, "")]) for n in range(40)]
    sent, send = [], WorkerProcess.execute
    monkeypatch.setattr(WorkerProcess, "execute", lambda self, *message: sent.append(message) or send(self, *message))
    b.pool.execute(calls)
    assert (sent, b.pool.ahead()) == ([], 0)
    until.write_text("")
    assert running.result(LIMIT_S).final
    assert [bytes(call.result(LIMIT_S).body or b"") for call in calls] == [bytes([n]) * 7000 for n in range(40)]


def test_what_waited_in_a_worker_that_died_is_run_by_another(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(max_in_flight=3).up()
    (pid,) = b.pids()
    running, _ = held(b, tmp_path)
    waits = [b.send(call_to("who"))[0] for _ in range(2)]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        running.result(LIMIT_S)
    for call in waits:
        assert call.result(LIMIT_S).parameters["pid"] not in (pid, 0)
    assert [report.ok for report in eventually(lambda: len(b.reports) == 3 and b.reports)] == [False, True, True]


def test_a_batch_is_not_sent_ahead_to_a_worker_that_has_just_died(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its end is known it seems to have room, and would be tried over and over."""
    b, dead, known, tried = bench(max_in_flight=2).up(), threading.Event(), threading.Event(), []
    (pid,) = b.pids()
    running, _ = held(b, tmp_path)
    finish, send = WorkerProcess._finish, WorkerProcess.execute
    monkeypatch.setattr(WorkerProcess, "_finish", lambda self: (dead.set(), known.wait(LIMIT_S), finish(self)))
    monkeypatch.setattr(WorkerProcess, "execute", lambda self, *message: tried.append(self.pid) or send(self, *message))
    os.kill(pid, signal.SIGKILL)
    assert dead.wait(LIMIT_S)
    (waits,) = b.send(call_to("who"))
    assert (tried, b.pool.ahead()) == ([pid], 0)
    known.set()
    with pytest.raises(WorkerDied):
        running.result(LIMIT_S)
    assert waits.result(LIMIT_S).parameters["pid"] == b.pids()[0] != pid
    held(b, tmp_path, "again")[1].write_text("")  # its successor takes batches ahead as before


def test_a_batch_whose_worker_died_before_it_was_sent_is_run_once_by_the_next_process(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench().up()
    (pid,) = b.pids()

    def dies_now(batch: Any) -> None:
        monkeypatch.undo()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: b.pids() not in ([], [pid]) and b.pool.idle())

    monkeypatch.setattr(RunningCalls, "note_start", dies_now)
    (call,) = b.send(call_to("who"))
    (following,) = b.pids()
    assert call.result(LIMIT_S).parameters["pid"] == following
    assert b.ask("who").parameters["pid"] == following
    assert (b.pids(), b.pool.workers()[0].restarts, len(b.reports)) == ([following], 1, 2)


def test_a_request_is_cancelled_before_its_batch_has_begun(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(max_in_flight=2).up()
    _, until = held(b, tmp_path)
    (waits,) = b.send(call_to("listen"))
    b.pool.cancel(waits)
    time.sleep(0.1)  # the worker hears of it while it runs the other batch
    until.write_text("")
    assert bytes(waits.result(LIMIT_S).body) == b"heard"


def test_scaling_down_lets_a_worker_finish_all_that_it_holds(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(max_in_flight=2).up()
    running, until = held(b, tmp_path)
    (waits,) = b.send(call_to())
    b.pool.scale(0)
    until.write_text("")
    assert running.result(LIMIT_S).final
    assert waits.result(LIMIT_S).final
    eventually(lambda: not b.pool.workers())


def test_large_answers_of_batches_in_a_row_do_not_overwrite_each_other(bench: Callable[..., Any]) -> None:
    """The next batch writes its answers while the last one's are still being copied."""
    b = bench(max_in_flight=2).up()
    calls = []
    for n in range(40):
        eventually(lambda: b.pool.idle() or b.pool.ahead())
        calls += b.send(*[call_to("large", count=100_000 + 7 * n, value=n) for _ in range(3)])
    for at, call in enumerate(calls):
        answer = call.result(LIMIT_S).tensors[0].numpy()
        assert answer.shape == (100_000 + 7 * (at // 3),)
        assert (answer == at // 3).all()


@pytest.mark.parametrize("decoupled", [False, True])
def test_more_large_answers_than_the_memory_holds_wait_for_room(bench: Callable[..., Any], decoupled: bool) -> None:
    b = bench(decoupled=decoupled, capacity=4 << 20).up()
    (call,) = b.send(call_to("stream", count=40, size=1 << 20))
    assert [len(answer.body) for answer in call.stream(LIMIT_S)] == [1 << 20] * 40 + [3]


def test_what_no_worker_has_is_not_underway(bench: Callable[..., Any]) -> None:
    """So that what waits for it has the patience with a queue, and circles of models end."""
    b = bench(response_timeout_s=0.5).up()
    hangs, waits = call_to("hang"), call_to()
    for call in (hangs, waits):
        call.times.dispatched = 1  # it has left the queue
        b.send(call)
    assert (hangs.underway, waits.underway) == (True, False)
    before = time.monotonic_ns()
    with pytest.raises(WorkerTimeout):
        hangs.result(LIMIT_S)
    assert waits.result(LIMIT_S).final
    assert waits.times.dispatched > before  # when the next worker got it


def test_what_had_only_waited_in_a_worker_that_died_is_not_underway(bench: Callable[..., Any]) -> None:
    b = bench(max_in_flight=2).up()
    (pid,) = b.pids()
    (hangs,) = b.send(call_to("hang"))
    (waits,) = b.send(call_to())
    assert waits.underway
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        hangs.result(LIMIT_S)
    died = time.monotonic_ns()
    assert waits.result(LIMIT_S).final
    assert waits.times.dispatched > died
