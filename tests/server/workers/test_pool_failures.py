"""Workers that die, hang, or cannot load."""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jitney.core.errors import Draining, LoadFailed, ModelFailed, NoWorkers, WorkerDied, WorkerTimeout
from jitney.core.model_config import AT_ONCE
from jitney.server.workers.worker_state import WorkerState

from .conftest import LIMIT_S, call_to, error_of, eventually

pytestmark = pytest.mark.usefixtures("reading")


def test_a_killed_worker_fails_its_calls_only_and_is_back_within_two_seconds(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    b = bench().up(2)
    go, marks = tmp_path / "go", [tmp_path / "a", tmp_path / "b"]
    lost = b.send(call_to("wait", until=str(go), mark=str(marks[0])), call_to("wait", until=str(go)))
    kept = b.send(call_to("wait", until=str(go), mark=str(marks[1])))
    pid = int(eventually(lambda: marks[0].exists() and marks[0].read_text()))
    eventually(marks[1].exists)

    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for call in lost:
        error = error_of(call)
        assert error.exit_code == 137
        assert "of model 'm' died: killed by SIGKILL (exit code 137)" in str(error)
        assert not isinstance(error, WorkerTimeout)
    assert time.monotonic() - killed < 1
    assert not kept[0].done
    eventually(lambda: b.pool.ready() == 2 and b.pool.idle() == 1)
    assert time.monotonic() - killed < 2
    assert b.reports[0].calls == list(lost)
    assert not b.reports[0].ok

    go.write_text("")
    assert kept[0].result(LIMIT_S).final
    (dead,) = [worker for worker in b.pool.workers() if worker.restarts]
    assert (dead.restarts, dead.state, dead.error) == (1, WorkerState.READY, "")
    assert dead.pid != pid
    assert b.reports[0].worker == dead.name


def test_a_worker_that_dies_idle_is_replaced(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (pid,) = b.pids()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: b.pids() not in ([], [pid]) and b.pool.ready() == 1)
    assert b.ask().final
    assert b.states >= 3  # ready, gone, ready


def test_batches_handed_to_a_dead_worker_are_answered(bench: Callable[..., Any]) -> None:
    """Between a death and its discovery the pool believes in the worker: whatever happens, every call gets an answer."""
    b = bench().up(2)
    for _ in range(3):
        eventually(lambda: b.pool.ready() == 2)
        for pid in b.pids():
            os.kill(pid, signal.SIGKILL)
        calls = [b.send(call_to(tensors=[np.zeros(3000)]))[0] for _ in range(4)]
        for call in calls:
            try:
                assert call.result(LIMIT_S).final
            except WorkerDied as error:
                assert error.exit_code == 137


def test_exit_codes_are_told(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (call,) = b.send(call_to("exit"))
    error = error_of(call)
    assert error.exit_code == 1
    eventually(lambda: b.pool.ready() == 1)
    (call,) = b.send(call_to("die"))
    assert error_of(call).exit_code == 137


def test_answers_streamed_before_the_death_have_arrived(bench: Callable[..., Any]) -> None:
    b = bench().up()
    stream, killer = b.send(call_to("stream", count=2), call_to("die"))
    assert [bytes(stream.result(LIMIT_S).body) for _ in range(2)] == [b"\0", b"\1"]
    error_of(stream)
    error_of(killer)


def test_a_lost_device_fails_the_batch_and_replaces_the_worker(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (pid,) = b.pids()
    (call,) = b.send(call_to("lose"))
    assert "DeviceLost: illegal access" in str(error_of(call, ModelFailed))
    eventually(lambda: b.pids() not in ([], [pid]) and b.pool.ready() == 1)
    assert b.pool.workers()[0].restarts == 1


def test_a_worker_that_hangs_is_replaced_after_the_response_timeout(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench(response_timeout_s=0.5).up()
    (pid,) = b.pids()
    sent = time.monotonic()
    (call,) = b.send(call_to("hang"))
    error = error_of(call, WorkerTimeout)
    assert "did not answer within 0.5 s" in str(error)
    assert 0.5 <= time.monotonic() - sent < 2
    assert not psutil.pid_exists(pid)
    eventually(b.pool.idle)
    assert b.ask().final


def test_a_worker_is_not_to_blame_for_what_the_server_has_not_read_yet(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But it is where it hangs all the same: it may have sent something else."""
    b = bench(response_timeout_s=LIMIT_S).up()
    supervisor, mark = b.pool._supervisor, tmp_path / "mark"
    (call,) = b.send(call_to("wait", until=str(tmp_path / "never"), mark=str(mark)))
    eventually(mark.exists)
    (worker,) = supervisor.roster.members
    monkeypatch.setattr(type(worker.child), "is_heard", False)

    def look() -> None:
        with supervisor.lock:
            worker.note_late(math.inf)
        supervisor._late(worker, worker.child)

    look()
    assert not call.done and not worker.late
    look()
    assert "did not answer within" in str(error_of(call, WorkerTimeout))


def test_what_a_worker_has_sent_is_known(bench: Callable[..., Any]) -> None:
    b = bench().up()
    child = b.pool._supervisor.roster.members[0].child
    assert child.is_heard
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child._socket, kept = ours, child._socket
        assert child.is_heard
        theirs.send(b"x")
        assert not child.is_heard
        ours.close()
        assert child.is_heard
        child._socket = kept


def test_no_answer_is_in_time_for_a_limit_of_0(bench: Callable[..., Any]) -> None:
    b = bench(response_timeout_s=AT_ONCE).up()
    for _ in range(2):
        (pid,) = b.pids()
        (call,) = b.send(call_to())
        assert "did not answer within 0 s" in str(error_of(call, WorkerTimeout))
        eventually(lambda pid=pid: b.pids() not in ([], [pid]) and b.pool.idle())


def test_a_stopped_worker_that_is_not_wanted_any_more_is_ended_at_once(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench().up(2)
    mark = tmp_path / "mark"
    (call,) = b.send(call_to("wait", until=str(tmp_path / "never"), mark=str(mark)))
    eventually(lambda: mark.exists() and mark.read_text())
    pids = b.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids))
    b.pool.scale(0)
    assert "stopped by a signal" in str(error_of(call, WorkerTimeout))
    eventually(lambda: not b.pool.workers(), limit=5)
    assert not any(map(psutil.pid_exists, pids))


def test_a_stopped_worker_does_not_hold_up_the_end(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (pid,) = b.pids()
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    began = time.monotonic()
    b.pool.stop(LIMIT_S)
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(pid)


def test_each_streamed_answer_restarts_the_response_timeout(bench: Callable[..., Any]) -> None:
    b = bench(response_timeout_s=0.6).up()
    (call,) = b.send(call_to("stream", count=8, pause=0.2))
    assert len(list(call.stream(LIMIT_S))) == 9
    assert b.pool.workers()[0].restarts == 0


def test_a_worker_that_answers_in_time_is_left_alone(bench: Callable[..., Any]) -> None:
    b = bench(response_timeout_s=0.3).up()
    started = time.monotonic()
    while time.monotonic() - started < 0.8:
        b.ask("stream", count=0, pause=0)
    assert b.pool.workers()[0].restarts == 0


@pytest.fixture
def unloadable(bench: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """A model that cannot be loaded while the file `broken` exists."""
    (tmp_path / "broken").write_text("")
    (tmp_path / "attempts").write_text("")

    def make(**config: Any) -> Any:
        paths = {name: str(tmp_path / name) for name in ("broken", "attempts")}
        return bench("unloadable", parameters=paths, **config)

    vars(make).update(broken=tmp_path / "broken", attempts=lambda: len((tmp_path / "attempts").read_text()))
    return make


def test_a_model_that_cannot_load_says_why_and_is_not_tried_again(unloadable: Any, caplog: pytest.LogCaptureFixture) -> None:
    b = unloadable()
    b.pool.start(1)
    with pytest.raises(
        LoadFailed, match="'m' could not be loaded by worker 'm_0_0': FileNotFoundError: weights are missing"
    ):
        b.pool.wait_ready(LIMIT_S)
    (worker,) = b.pool.workers()
    assert (worker.state, worker.pid, worker.error) == (WorkerState.FAILED, 0, "FileNotFoundError: weights are missing")
    assert "weights are missing" in str(b.pool.failure)
    assert (b.pool.ready(), b.pool.healthy(), b.pool.target()) == (0, 0, 1)
    assert "Traceback" in caplog.text
    (call,) = b.send(call_to())
    error_of(call, NoWorkers)
    assert unloadable.attempts() == 1

    unloadable.broken.unlink()
    b.pool.scale(1)
    b.pool.wait_ready(LIMIT_S)
    assert b.pool.failure is None
    assert b.ask().final


def test_with_retry_it_is_tried_until_it_works(unloadable: Any) -> None:
    b = unloadable()
    b.pool.start(1, retry=True)
    with pytest.raises(LoadFailed):
        b.pool.wait_ready(LIMIT_S)
    eventually(lambda: unloadable.attempts() >= 2)
    (call,) = b.send(call_to())
    assert "has no healthy worker: " in (told := str(error_of(call, NoWorkers)))
    assert "weights are missing" in told
    unloadable.broken.unlink()
    eventually(lambda: b.pool.ready() == 1)
    assert b.ask().final


def test_a_batch_that_waits_while_the_model_loads_hears_why_it_could_not(unloadable: Any) -> None:
    b = unloadable()
    b.pool.start(1, retry=True)
    (call,) = b.send(call_to())
    assert "weights are missing" in str(error_of(call, NoWorkers))


def test_a_loaded_model_that_breaks_is_given_up_in_the_end(unloadable: Any) -> None:
    b = unloadable(max_retry_timeout_s=0.5)
    unloadable.broken.unlink()
    b.up()
    unloadable.broken.write_text("")
    os.kill(b.pids()[0], signal.SIGKILL)
    eventually(lambda: b.pool.workers()[0].state is WorkerState.FAILED)
    assert b.pool.healthy() == 0
    (call,) = b.send(call_to())
    error_of(call, NoWorkers)


def test_scaling_up_a_model_that_broke_says_why_and_leaves_the_others_alone(unloadable: Any) -> None:
    b = unloadable()
    unloadable.broken.unlink()
    b.up()
    unloadable.broken.write_text("")
    b.pool.scale(2)
    with pytest.raises(LoadFailed, match="m_0_1"):
        b.pool.wait_ready(LIMIT_S)
    assert b.pool.ready() == 1
    assert b.ask().final


def test_a_process_that_ends_while_loading(bench: Callable[..., Any]) -> None:
    b = bench("clumsy")
    b.pool.start(1)
    with pytest.raises(LoadFailed, match="exit code 5: last words"):
        b.pool.wait_ready(LIMIT_S)


def test_sys_exit_while_loading_is_a_failure_to_load(bench: Callable[..., Any]) -> None:
    b = bench("quitter")
    b.pool.start(1)
    with pytest.raises(LoadFailed, match="SystemExit: cannot go on"):
        b.pool.wait_ready(LIMIT_S)


def test_a_factory_that_is_not_there(bench: Callable[..., Any]) -> None:
    b = bench("no_such_factory")
    b.pool.start(1)
    with pytest.raises(LoadFailed, match="no attribute 'no_such_factory'"):
        b.pool.wait_ready(LIMIT_S)


def test_loading_has_a_limit(bench: Callable[..., Any]) -> None:
    b = bench("endless", startup_timeout_s=0.8)
    b.pool.start(1)
    with pytest.raises(LoadFailed, match=r"not loaded within 0\.8 s"):
        b.pool.wait_ready(LIMIT_S)


def test_no_model_is_loaded_within_0_seconds(bench: Callable[..., Any]) -> None:
    b = bench(startup_timeout_s=AT_ONCE)
    b.pool.start(1)
    with pytest.raises(LoadFailed, match="not loaded within 0 s"):
        b.pool.wait_ready(LIMIT_S)


def test_wait_ready_has_a_limit_of_its_own(bench: Callable[..., Any]) -> None:
    b = bench("endless")
    b.pool.start(2)
    with pytest.raises(TimeoutError, match=r"0 of 2 workers ready after 0\.1 s"):
        b.pool.wait_ready(0.1)
    (call,) = b.send(call_to())
    b.pool.stop(LIMIT_S)
    error_of(call, Draining)
    with pytest.raises(Draining):
        b.pool.wait_ready(1)


def test_an_interpreter_that_is_not_there(bench: Callable[..., Any]) -> None:
    from jitney.core.model_config import HandlerSpec

    b = bench(handler=HandlerSpec("x.py", python="/no/such/python"))
    b.pool.start(1)
    with pytest.raises(LoadFailed, match=r"its process cannot be started: .*No such file"):
        b.pool.wait_ready(LIMIT_S)


def test_processes_that_a_worker_forked_do_not_hide_its_death(bench: Callable[..., Any], tmp_path: Path) -> None:
    forked = tmp_path / "forked"
    forked.write_text("")

    def orphans() -> list[int]:
        return [int(pid) for pid in forked.read_text().splitlines()]

    b = bench("fertile", parameters={"forked": str(forked)}).up()
    (pid,) = b.pids()
    try:
        (orphan,) = eventually(orphans)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: b.pids() not in ([], [pid]) and b.pool.ready() == 1, limit=5)
        assert not _ended(orphan)  # it is still there, with the pipes
    finally:
        eventually(lambda: len(orphans()) == 2)
        for orphan in orphans():
            os.kill(orphan, signal.SIGTERM)  # and signals work on it as usual
    eventually(lambda: all(map(_ended, orphans())))


def _ended(pid: Any) -> Any:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_signals_to_the_whole_group_are_left_to_the_server(bench: Callable[..., Any]) -> None:
    b = bench().up()
    (pid,) = b.pids()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
        assert b.ask().final
    assert b.pids() == [pid]
    assert Path(f"/proc/{pid}").exists()
