"""More workers, fewer workers, and the end of all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jitney.core.errors import Draining, InvalidConfig
from jitney.core.model_config import InstanceGroup
from jitney.server.workers import supervisor
from jitney.server.workers.worker_state import WorkerState

from .conftest import LIMIT_S, call_to, eventually


def test_up_adds_without_disturbing_those_that_run(bench: Callable[..., Any]) -> None:
    b = bench().up(1)
    (first,) = b.pids()
    b.pool.scale(3)
    assert b.ask().final  # while they start
    b.pool.wait_ready(LIMIT_S)
    assert b.pids()[0] == first
    assert [worker.name for worker in b.pool.workers()] == ["m_0_0", "m_0_1", "m_0_2"]


def test_down_lets_the_last_ones_finish_their_batch(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench().up(2)
    go, marks = tmp_path / "go", [tmp_path / "0", tmp_path / "1"]
    calls = [b.send(call_to("wait", until=str(go), mark=str(mark)))[0] for mark in marks]
    for mark in marks:
        eventually(mark.exists)
    b.pool.scale(1)
    states = {worker.name: worker.state for worker in b.pool.workers()}
    assert states == {"m_0_0": WorkerState.BUSY, "m_0_1": WorkerState.STOPPING}
    assert b.pool.target() == 1
    go.write_text("")
    assert {call.result(LIMIT_S).parameters["name"] for call in calls} == {"m_0_0", "m_0_1"}
    eventually(lambda: [worker.name for worker in b.pool.workers()] == ["m_0_0"])
    assert b.pool.idle() == 1


def test_scaling_under_load_loses_nothing(bench: Callable[..., Any]) -> None:
    b = bench().up(1)
    ended, wrong, count = threading.Event(), [], [0] * 4

    def client(mark: Any) -> None:
        while not ended.is_set():
            value = mark * 1_000_000 + count[mark]
            answer = b.ask(tensors=[np.full(2000, value)]).tensors[0].numpy()
            if not (answer == value).all():
                wrong.append(value)
            count[mark] += 1

    threads = [threading.Thread(target=client, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for size in (3, 1, 2, 1, 3):
        b.pool.scale(size)
        b.pool.wait_ready(LIMIT_S)
        before = sum(count)
        eventually(lambda before=before: sum(count) > before + 20)
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong
    eventually(lambda: len(b.pool.workers()) == 3 and b.pool.idle() == 3)


def test_to_zero_and_back(bench: Callable[..., Any]) -> None:
    b = bench().up(2)
    b.pool.scale(0)
    eventually(lambda: b.pool.workers() == [])
    b.pool.scale(1)
    b.pool.wait_ready(LIMIT_S)
    assert b.ask().final


def test_down_while_starting(bench: Callable[..., Any]) -> None:
    b = bench("endless")
    b.pool.start(2)
    eventually(lambda: len(b.pids()) == 2)
    b.pool.scale(0)
    eventually(lambda: b.pool.workers() == [])


def test_sizes_that_make_no_sense(bench: Callable[..., Any]) -> None:
    b = bench()
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        b.pool.scale(-1)
    gpu = bench(instance_groups=(InstanceGroup(kind="KIND_GPU"),))
    with pytest.raises(InvalidConfig, match="no GPUs are available"):
        gpu.pool.start(1)
    assert gpu.pool.target() == 0


def test_stop_finishes_what_runs_and_what_waits(bench: Callable[..., Any], tmp_path: Path) -> None:
    b = bench().up(1)
    go, mark = tmp_path / "go", tmp_path / "mark"
    (running,) = b.send(call_to("wait", until=str(go), mark=str(mark)))
    (waiting,) = b.send(call_to())
    eventually(mark.exists)
    stopping = threading.Thread(target=b.pool.stop, args=(LIMIT_S,))
    stopping.start()
    eventually(lambda: b.pool.target() == 0)
    go.write_text("")
    assert running.result(LIMIT_S).final
    assert waiting.result(LIMIT_S).final
    stopping.join()
    assert b.pool.workers() == []


@pytest.mark.parametrize("timeout", [0.2, 0.0])
def test_stop_ends_what_takes_too_long_and_says_so(bench: Callable[..., Any], tmp_path: Path, timeout: float) -> None:
    b = bench().up(2)
    (call,) = b.send(call_to("hang", mark=str(tmp_path / "mark")))
    eventually((tmp_path / "mark").exists)
    started = time.monotonic()
    b.pool.stop(timeout)
    assert time.monotonic() - started < 3
    with pytest.raises(Draining, match="'m' was stopped before it answered"):
        call.result(LIMIT_S)
    assert len(b.reports) == 1


def test_stop_twice_and_from_two_threads(bench: Callable[..., Any]) -> None:
    b = bench().up(2)
    threads = [threading.Thread(target=b.pool.stop, args=(LIMIT_S,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    b.pool.stop(LIMIT_S)
    assert b.pool.workers() == []


def test_a_worker_unloads_when_it_is_asked_to_stop_whatever_threads_it_has(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    b = bench("tidy", parameters={"unloaded": str(tmp_path / "unloaded")}).up()
    b.pool.stop(LIMIT_S)
    assert (tmp_path / "unloaded").read_text() == "yes"


def test_a_worker_that_will_not_unload_is_killed_after_its_grace(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitney.server.workers.roster.STOP_GRACE_S", 0.3)
    b = bench("stubborn").up(2)
    b.pool.scale(1)
    eventually(lambda: len(b.pool.workers()) == 1, limit=5)
    b.pool.stop(LIMIT_S)


def test_nothing_wakes_up_while_nothing_happens(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(response_timeout_s=60, startup_timeout_s=60).up(2)
    b.ask()
    rings = []
    original = supervisor.Supervisor._ring
    monkeypatch.setattr(supervisor.Supervisor, "_ring", lambda self: (rings.append(1), original(self))[1])
    monkeypatch.setattr(supervisor.Supervisor, "_set_alarm", lambda self: rings.append(1))
    for _ in range(50):
        b.ask()
    assert len(rings) <= 1


SERVER = """
import sys, time
from jitney.core.model_config import ModelConfig
from jitney.server.ipc.arena import Arena
from jitney.server.workers.pool import Pool
pool = Pool(ModelConfig("m", "1", "python"), Arena(1 << 20), on_idle=lambda: None, gpus=(),
            factory="jitney.tests.fakes.worker_backends:" + sys.argv[1])
pool.start(2)
if sys.argv[1] == "obedient":
    pool.wait_ready(30)
while len(workers := pool.workers()) < 2 or not all(w.pid for w in workers): time.sleep(0.01)
print(*(w.pid for w in workers), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("backend", ["obedient", "endless"])
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_workers_end_with_their_server_however_it_ends(backend: str, end: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, backend], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdin is not None and server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        assert len(pids) == 2
        if end == "kill":
            os.kill(server.pid, signal.SIGKILL)
        else:
            server.stdin.close()
        server.wait(LIMIT_S)
    eventually(lambda: not any(_runs(pid) for pid in pids), limit=5)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_working_directory_does_not_shadow_modules(
    bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('wrong module')")
    (tmp_path / "jitney").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bench().up().ask().final
    assert Path.cwd() == tmp_path
