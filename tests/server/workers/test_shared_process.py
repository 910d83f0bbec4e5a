"""Models that share a worker process: real processes, in each of which live the workers of several pools."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from jitney.core.errors import Draining, InvalidConfig, LoadFailed, WorkerDied, WorkerTimeout
from jitney.server.ipc.io_context import IoContext
from jitney.server.workers import shared_process
from jitney.server.workers.roster import OVERSLEPT_S
from jitney.server.workers.shared_process import Groups, Place
from jitney.server.workers.worker_state import WorkerState

from .conftest import LIMIT_S, Bench, call_to, eventually

pytestmark = pytest.mark.usefixtures("reading")


class Group:
    """Makes models of one group, of one server."""

    def __init__(self, bench: Callable[..., Any]) -> None:
        self.groups, self._bench = Groups(), bench

    def model(self, name: str, backend: str = "obedient", **config: Any) -> Bench:
        found: Bench = self._bench(backend, groups=self.groups, name=name, worker_group="g", **config)
        return found


@pytest.fixture
def group(bench: Callable[..., Any]) -> Group:
    return Group(bench)


def pid_of(*models: Bench) -> int:
    """The process in which all these models live."""
    (pid,) = {model.pids()[0] for model in models}
    return int(pid)


def back(*models: Bench) -> None:
    """Waits until each has been started again, once, and is ready."""
    eventually(lambda: all(m.pool.workers()[0].restarts == 1 and m.pool.ready() for m in models))


def memory_maps(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("jitney-")


def test_models_of_a_group_live_in_one_process_each_instance_in_that_of_its_number(group: Group) -> None:
    a, b, c = group.model("a").up(2), group.model("b").up(1), group.model("c").up(2)
    assert len({*a.pids(), *b.pids(), *c.pids()}) == 2
    assert a.pids() == c.pids() and a.pids()[0] == b.pids()[0]
    for model in (a, b, c):
        answer = model.ask("who")
        assert answer.parameters["pid"] in model.pids() and answer.parameters["omp"] == "1"
    assert [worker.name for worker in a.pool.workers()] == ["a_0_0", "a_0_1"]
    assert len({worker.memory_bytes for worker in b.pool.workers()}) == 1
    whole = psutil.Process(b.pids()[0]).memory_info().rss
    assert 0.2 * whole < b.pool.workers()[0].memory_bytes < 0.5 * whole


def test_other_groups_and_models_without_one_live_elsewhere(group: Group, bench: Callable[..., Any]) -> None:
    a, other = group.model("a").up(), bench(groups=group.groups, name="o", worker_group="other").up()
    alone = bench(groups=group.groups, name="alone").up()
    differs = group.model("d", environment={"MODEL_VARIABLE": "x"}).up()
    assert len({*a.pids(), *other.pids(), *alone.pids(), *differs.pids()}) == 4
    assert differs.ask("who").parameters["model_variable"] == "x"


def test_batches_of_different_models_run_at_the_same_time(group: Group, tmp_path: Path) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    until, mark = tmp_path / "until", tmp_path / "mark"
    (waits,) = a.send(call_to("wait", until=str(until), mark=str(mark)))
    eventually(mark.exists)
    assert b.ask("echo", tensors=[[1.0]]).final
    assert not waits.done
    until.touch()
    assert waits.result(LIMIT_S).final


def test_large_tensors_go_through_each_models_own_memory(group: Group) -> None:
    models = [group.model(name).up() for name in "ab"]
    for number, model in enumerate(models):
        (call,) = model.send(call_to("large", count=1 << 20, value=number + 1))
        tensor = call.result(LIMIT_S).tensors[0].numpy()
        assert tensor.shape == (1 << 20,) and set(tensor[::4096]) == {number + 1}


def test_a_load_that_fails_fails_alone_with_its_reason(group: Group, tmp_path: Path) -> None:
    a = group.model("a").up()
    pid = pid_of(a)
    (tmp_path / "broken").touch()
    parameters = {"attempts": str(tmp_path / "attempts"), "broken": str(tmp_path / "broken")}
    bad = group.model("bad", "unloadable", parameters=parameters)
    bad.pool.start(1)
    with pytest.raises(LoadFailed, match="weights are missing"):
        bad.pool.wait_ready(LIMIT_S)
    quits = group.model("quits", "quitter")
    quits.pool.start(1)
    with pytest.raises(LoadFailed, match="cannot go on"):
        quits.pool.wait_ready(LIMIT_S)
    assert (pid_of(a), a.pool.ready(), a.pool.workers()[0].restarts) == (pid, 1, 0)
    (tmp_path / "broken").unlink()
    bad.pool.scale(1)
    eventually(bad.pool.ready)
    assert pid_of(a, bad) == pid


def test_unloading_lets_the_memory_go_and_the_process_with_the_last_model(group: Group) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    pid = pid_of(a, b)
    maps, threads = memory_maps(pid), psutil.Process(pid).num_threads()
    c = group.model("c").up()
    assert c.ask("echo", tensors=[[1.0] * 5000]).final
    assert (memory_maps(pid), psutil.Process(pid).num_threads()) == (maps + 2, threads + 2)
    c.pool.stop(LIMIT_S)
    eventually(lambda: (memory_maps(pid), psutil.Process(pid).num_threads()) == (maps, threads))
    a.pool.stop(LIMIT_S)
    assert b.ask("who").parameters["pid"] == pid
    b.pool.stop(LIMIT_S)
    assert not psutil.pid_exists(pid)
    d = group.model("d").up()
    assert pid_of(d) != pid


def test_a_model_that_unloads_finishes_its_batch_and_the_others_go_on(group: Group, tmp_path: Path) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    until, mark = tmp_path / "until", tmp_path / "mark"
    (waits,) = a.send(call_to("wait", until=str(until), mark=str(mark)))
    eventually(mark.exists)
    stopping = threading.Thread(target=a.pool.stop, args=(LIMIT_S,))
    stopping.start()
    until.touch()
    stopping.join(LIMIT_S)
    assert waits.result(0).final
    assert b.ask("echo", tensors=[[1.0]]).final
    assert b.pool.workers()[0].restarts == 0


# -- crashes


def test_a_crash_fails_the_batches_of_all_and_all_are_ready_again(group: Group, tmp_path: Path) -> None:
    a, b, idle = group.model("a").up(), group.model("b").up(), group.model("idle").up()
    pid = pid_of(a, b, idle)
    mark = tmp_path / "mark"
    (waits,) = b.send(call_to("wait", until=str(tmp_path / "never"), mark=str(mark)))
    eventually(mark.exists)
    (bad,) = a.send(call_to("crash"))
    with pytest.raises(WorkerDied, match="model 'a' died: killed by SIGSEGV"):
        bad.result(LIMIT_S)
    with pytest.raises(WorkerDied, match=r"model 'b' died: killed by SIGSEGV .* because of a, of the same worker_group"):
        waits.result(LIMIT_S)
    back(a, b, idle)
    assert pid_of(a, b, idle) != pid
    assert a.fatal == [bad] and not b.fatal and not idle.fatal
    for model in (a, b, idle):
        assert model.ask("echo", tensors=[[1.0]]).final


def test_a_batch_that_another_models_crash_has_ended_runs_again(group: Group, tmp_path: Path) -> None:
    a, b = group.model("a").up(), group.model("b", retry_after_crash=True).up()
    mark, until = tmp_path / "mark", tmp_path / "until"
    (waits,) = b.send(call_to("wait", until=str(until), mark=str(mark)))
    eventually(mark.exists)
    a.send(call_to("crash"))
    eventually(lambda: b.pool.workers()[0].restarts and [int(mark.read_text() or 0)] == b.pids())
    until.touch()
    assert [waits.result(LIMIT_S).parameters["pid"]] == b.pids()


def test_only_the_model_that_crashes_pauses_before_it_starts_again(group: Group) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    (bad,), (good,) = a.pool._roster.members, b.pool._roster.members
    for crashes in (1, 2, 3):
        eventually(lambda: a.pool.ready() and b.pool.ready())
        a.send(call_to("crash"))
        eventually(lambda crashes=crashes: good.restarts == crashes and b.pool.ready())
    assert (bad.state, bad.restarts) == (WorkerState.BACKOFF, 3)  # for a second after the second and the third time
    assert (good.backoff._attempts, bad.backoff._attempts) == (0, 3)


def test_a_process_that_somebody_kills_is_nobodys_fault(group: Group) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    pid = pid_of(a, b)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: a.pool.ready() and b.pool.ready() and pid not in (*a.pids(), *b.pids()))
    assert pid_of(a, b) != pid
    assert [model.pool._roster.members[0].backoff._attempts for model in (a, b)] == [1, 1]


def test_a_process_that_ends_while_a_model_loads_is_that_models_fault(group: Group) -> None:
    a = group.model("a").up()
    bad = group.model("bad", "clumsy")
    bad.pool.start(1)
    with pytest.raises(LoadFailed, match="exit code 5: last words"):
        bad.pool.wait_ready(LIMIT_S)
    back(a)
    assert a.ask("echo", tensors=[[1.0]]).final
    assert bad.pool.workers()[0].state is WorkerState.FAILED


# -- what takes too long


def test_a_model_that_hangs_has_the_process_replaced(group: Group, tmp_path: Path) -> None:
    a, b = group.model("a", response_timeout_s=0.3).up(), group.model("b", retry_after_crash=True).up()
    pid = pid_of(a, b)
    until, mark = tmp_path / "until", tmp_path / "mark"
    (innocent,) = b.send(call_to("wait", until=str(until), mark=str(mark)))
    eventually(mark.exists)
    (hangs,) = a.send(call_to("hang"))
    with pytest.raises(WorkerTimeout, match="response_timeout"):
        hangs.result(LIMIT_S)
    until.touch()
    assert innocent.result(LIMIT_S).parameters["pid"] != pid
    back(a, b)
    assert b.pool._roster.members[0].backoff._attempts == 0


def test_a_load_that_takes_too_long_has_the_process_replaced(group: Group) -> None:
    a, slow = group.model("a").up(), group.model("slow", "endless", startup_timeout_s=0.3)
    slow.pool.start(1)
    late = group.model("late")
    late.pool.start(1)  # waits for the load before it
    with pytest.raises(LoadFailed, match="startup_timeout"):
        slow.pool.wait_ready(LIMIT_S)
    late.pool.wait_ready(LIMIT_S)
    back(a)
    assert pid_of(a, late)


def test_a_model_that_does_not_let_itself_be_stopped_takes_the_process_with_it(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_process, "HURRY_S", 0.2)
    a, b = group.model("a").up(), group.model("b").up()
    pid = pid_of(a, b)
    (hangs,) = a.send(call_to("hang"))
    a.pool.stop(0.1)
    with pytest.raises(Draining):
        hangs.result(0)
    eventually(lambda: b.pool.ready() and b.pids() != [pid])
    assert b.ask("echo", tensors=[[1.0]]).final


def test_a_model_whose_batch_ends_soon_after_its_time_leaves_the_others_alone(group: Group, tmp_path: Path) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    pid, mark = pid_of(a, b), tmp_path / "mark"
    (listens,) = a.send(call_to("wait", until=str(tmp_path / "until"), mark=str(mark)))
    eventually(mark.exists)
    threading.Timer(0.3, (tmp_path / "until").touch).start()
    a.pool.stop(0.1)
    assert listens.done
    assert (b.pids(), b.pool.workers()[0].restarts) == ([pid], 0)


def test_a_model_that_is_stopped_while_it_loads_leaves_the_others_alone(group: Group) -> None:
    a = group.model("a").up()
    pid = pid_of(a)
    files = psutil.Process(pid).num_fds()
    for number in range(5):
        other = group.model(f"o{number}")
        other.pool.start(1)
        other.pool.stop(LIMIT_S)
    assert (a.pids(), a.pool.workers()[0].restarts) == ([pid], 0)
    assert a.ask("echo", tensors=[[1.0]]).final
    eventually(lambda: psutil.Process(pid).num_threads() <= 6)
    eventually(lambda: psutil.Process(pid).num_fds() == files)


def test_a_cancellation_reaches_the_one_that_runs(group: Group, tmp_path: Path) -> None:
    a, b = group.model("a").up(), group.model("b").up()
    marks = [tmp_path / name for name in "ab"]
    (one,), (other,) = (m.send(call_to("listen", mark=str(mark))) for m, mark in zip((a, b), marks, strict=True))
    eventually(lambda: all(mark.exists() for mark in marks))
    a.pool.cancel(one)
    assert one.result(LIMIT_S).body == b"heard"
    assert not other.done
    b.pool.cancel(other)
    assert other.result(LIMIT_S).body == b"heard"


# -- the server's side


def test_an_instance_on_a_gpu_is_refused(group: Group, bench: Callable[..., Any]) -> None:
    model = bench(groups=group.groups, worker_group="g", gpus=(0,))
    with pytest.raises(InvalidConfig, match=r"worker_group 'g', but instance 'm_0_0' is placed on GPU 0.*kind: KIND_CPU"):
        model.pool.start(1)


def test_the_servers_threads_do_not_grow_with_its_models(group: Group, bench: Callable[..., Any]) -> None:
    io = IoContext()
    first = [bench(io=io, name="x").up(), group.model("g0", io=io).up()]
    before = {thread.name for thread in threading.enumerate() if "-help-" not in thread.name}
    more = [bench(io=io, name=f"x{n}").up() for n in range(3)] + [group.model(f"g{n}", io=io).up() for n in range(1, 12)]
    for model in (*first, *more):
        assert model.ask("echo", tensors=[[1.0]]).final
    assert {thread.name for thread in threading.enumerate() if "-help-" not in thread.name} == before


def test_a_models_number_of_threads_is_its_own_affair(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    a = group.model("a").up()
    monkeypatch.setenv("SOMETHING_ELSE", "since the process was started")
    b = group.model("b", parameters={"intra_op_thread_count": "3"}).up()
    assert pid_of(a, b)
    assert [b.ask("who").parameters[name] for name in ("threads", "omp")] == [3, "1"]


def test_a_worker_that_is_to_leave_has_its_time_anew_where_nobody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stood still: the process would go, with all that live in it, for what it was late to read."""
    now, ended, rings = [100.0], list[Any](), dict[Any, float]()
    monkeypatch.setattr(shared_process, "time", SimpleNamespace(monotonic=lambda: now[0]))
    process: Any = SimpleNamespace(
        alarms=SimpleNamespace(set=rings.__setitem__), end_for=ended.append, key=SimpleNamespace(name="g")
    )
    place = Place(process, 0, "m")
    place.kill(None)
    ((ring, at),) = rings.items()
    now[0] = at + OVERSLEPT_S + 0.1
    again = ring()
    assert (again, ended) == (now[0] + shared_process.LEAVE_S, [])
    now[0] = again
    assert ring() is None and ended == [place]
