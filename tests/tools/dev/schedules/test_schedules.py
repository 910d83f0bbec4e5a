"""Random schedules of the server in virtual time: they are right, can be repeated, and find what is broken on purpose."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from jitney.core.call import Call
from jitney.server.batching import closed_loop
from jitney.server.batching.closed_loop import ClosedLoop
from jitney.server.batching.dispatch import Dispatcher
from jitney.server.batching.policy import Walk
from jitney.server.batching.sequence_queue import SequenceBatcher
from jitney.server.serving.worker_deployment import WorkerDeployment
from jitney.server.workers import foresight, roster
from jitney.server.workers.crash_retry import CrashRetry
from jitney.server.workers.delivery import Delivery
from jitney.server.workers.pool import Pool
from jitney.server.workers.roster import Roster
from jitney.server.workers.running_calls import Stage
from jitney.server.workers.worker_state import Worker
from jitney.tools.dev.schedules import __main__ as command
from jitney.tools.dev.schedules import worker as simulated
from jitney.tools.dev.schedules.plan import plan
from jitney.tools.dev.schedules.world import World

#: Schedules of each run of the tests; `make schedules` runs as many as are wanted.
SCHEDULES = 500


def traced(seed: int) -> list[str]:
    trace: list[str] = []
    assert command.run(seed, trace) is None
    return trace


def test_so_many_schedules_are_right() -> None:
    wrong = {seed: repr(error) for seed in range(1, SCHEDULES + 1) if (error := command.run(seed)) is not None}
    assert not wrong, "SEED=n SCHEDULES=1 make schedules shows each of them"


@pytest.fixture
def foreseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker[Any, Any]]]:
    """A model's times are told from two batches on, ways are long, so that more is sent early, and what takes longer than
    foreseen is soon noticed. The workers that got a batch because they were about to be done."""
    early: list[Worker[Any, Any]] = []
    take = Roster.take_ahead

    def noted(self: Any, batch: Any, now: float, fits: Callable[[Any], bool]) -> Any:
        worker = take(self, batch, now, fits)
        early.extend([worker] if worker is not None and worker.in_flight == 1 else [])
        return worker

    monkeypatch.setattr(Roster, "take_ahead", noted)
    monkeypatch.setattr(foresight, "FIRST", 2)
    monkeypatch.setattr(roster, "RECALL_S", 0.002)
    monkeypatch.setattr(simulated, "_ON_ITS_WAY_NS", 2_000_000)
    monkeypatch.setattr(foresight, "WORTH_S", 0.0005)
    yield early


@pytest.fixture
def recalled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The batches that came back from workers that were not done."""
    back: list[Any] = []
    take = Roster.recalled

    def noted(self: Any, worker: Any, batch: Any, now: float) -> bool:
        found = take(self, worker, batch, now)
        back.extend([batch] if found else [])
        return found

    monkeypatch.setattr(Roster, "recalled", noted)
    return back


def test_they_are_right_also_where_the_ends_of_batches_are_foreseen(
    foreseen: list[Worker[Any, Any]], recalled: list[Any]
) -> None:
    wrong = {seed: repr(error) for seed in range(1, SCHEDULES + 1) if (error := command.run(seed)) is not None}
    assert not wrong
    assert len(foreseen) > 30
    assert len(recalled) > 10


def test_they_are_right_also_where_batches_wait_for_their_clients_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []
    waits_until = ClosedLoop.waits_until

    def noted(self: Any, now: float) -> float:
        until = waits_until(self, now)
        held.extend([until] if until > now else [])
        return until

    monkeypatch.setattr(ClosedLoop, "waits_until", noted)
    monkeypatch.setattr(closed_loop, "BEGIN", 0.0)
    monkeypatch.setattr(closed_loop, "END", 0.0)
    wrong = {seed: repr(error) for seed in range(1, SCHEDULES + 1) if (error := command.run(seed)) is not None}
    assert not wrong
    assert len(held) > 100


def test_a_batch_that_waits_for_longer_than_it_may_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "BEGIN", 0.0)
    monkeypatch.setattr(closed_loop, "END", 0.0)
    monkeypatch.setattr(Dispatcher, "_arm", nothing)
    errors = (command.run(seed) for seed in range(1, 500))
    assert any("idle while these may leave" in str(error) for error in errors)


def test_an_end_that_is_foreseen_and_not_made_use_of_is_found(
    monkeypatch: pytest.MonkeyPatch, foreseen: list[Worker[Any, Any]]
) -> None:
    ending = Pool.ending
    monkeypatch.setattr(Dispatcher, "_arm", nothing)
    monkeypatch.setattr(Pool, "ending", lambda self, now: (ending(self, now)[0], inf))
    errors = (command.run(seed) for seed in range(1, 500))
    assert any("about to be done while these may leave" in str(error) for error in errors)


def test_they_are_of_every_kind() -> None:
    plans = [plan(seed) for seed in range(1, SCHEDULES + 1)]
    assert {act.what for each in plans for act in each.acts} == {
        "ask", "kill", "kill all", "stop", "scale", "scale again", "reload",
    }  # fmt: skip
    assert {each.config.max_in_flight for each in plans} == {0, 1, 2, 3}
    assert any(each.config.sequence and "direct" in each.config.sequence for each in plans)
    assert any(each.config.sequence and "oldest" in each.config.sequence for each in plans)
    assert any(each.config.decoupled for each in plans)
    faults = ("crash", "hang", "fail", "partly", "slow", "load_refused", "load_crash", "load_hang", "not_started")
    assert all(any(getattr(each.faults, name) for each in plans) for name in faults)
    assert {each.faults.steady for each in plans} == {False, True}
    assert sum(each.harmless for each in plans) > SCHEDULES / 20


def test_requests_are_answered_and_not_only_refused() -> None:
    answered = asked = 0
    for seed in range(1, 101):
        world = World(plan(seed))
        world.run()
        asked += len(world.asked)
        answered += sum(each.error is None for each in world.asked)
    assert asked > 1000
    assert answered > 0.5 * asked


def test_a_seed_is_the_same_schedule_wherever_it_runs() -> None:
    code = "from jitney.tests.tools.dev.schedules.test_schedules import traced; print(*map(traced, range(1, 21)), sep='\\n')"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == "\n".join(str(traced(seed)) for seed in range(1, 21)) + "\n"


def nothing(*_: Any, **__: Any) -> None:
    """Stands in for what is left out."""


def never_restarted(gone: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(self: Any, worker: Any, *arguments: Any) -> Any:
        held = gone(self, worker, *arguments)
        worker.alarm = None
        return held

    return replaced


def never_deaf(take_back: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(self: Any, batch: Any) -> Any:
        taken = take_back(self, batch)
        self.deaf = False
        return taken

    return replaced


def never_follows(end: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(self: Any, child: Any, held: Any) -> None:
        for batch in held.untouched:
            batch.follows = False
        end(self, child, held)

    return replaced


def all_begun(lost: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(self: Any, child: Any, held: Any) -> None:
        for batch in (*held.begun, *held.untouched):
            batch.stage = Stage.SENT
        held.begun.extend(held.untouched)
        held.untouched.clear()
        lost(self, child, held)

    return replaced


def keeps_workers(place: Callable[..., Any]) -> Callable[..., Any]:
    """No worker is ever gone."""
    return lambda self, seats, now: place(self, [*self._instances, *seats], now)


#: What is broken, what stands in for it, and what is found.
BROKEN: list[tuple[type, str, Callable[..., Any], str]] = [
    (WorkerDeployment, "_worker_idle", lambda own: nothing, "idle while these may leave"),
    (WorkerDeployment, "_free", lambda own: nothing, "nobody freed"),
    (Walk, "_overflows", lambda own: lambda self, total: False, "a batch of"),
    (Call, "_finish", lambda own: lambda self: True, "could not be handed on"),
    (Dispatcher, "_arm", lambda own: nothing, "idle while these may leave|beyond their deadline"),
    (Roster, "gone", never_restarted, "the model was ready not within"),
    (Worker, "take_back", never_deaf, "RecursionError|failed"),
    (Roster, "ahead", lambda own: lambda self: 0, "may have a full batch ahead"),
    (Pool, "_end", never_follows, "fails without a reason"),
    (CrashRetry, "_crashed", lambda own: nothing, "never answered|nobody freed"),
    (Delivery, "lost", all_begun, "fails without a reason"),
    (SequenceBatcher, "place", keeps_workers, "the queue knows the workers"),
]


@pytest.mark.parametrize(
    ("owner", "name", "broken", "told"), BROKEN, ids=[f"{case[0].__name__}.{case[1]}" for case in BROKEN]
)
def test_what_is_broken_on_purpose_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: Callable[..., Any], told: str
) -> None:
    monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
    error = next((found for seed in range(1, 500) if (found := command.run(seed)) is not None), None)
    assert re.search(told, str(error)), error


def test_the_command_says_how_many_and_which_seed_was_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["schedules", "--schedules", "5", "--seed", "1"])
    assert command.main() == 0
    assert "5 schedules in" in capsys.readouterr().out
    monkeypatch.setattr(WorkerDeployment, "_free", nothing)
    assert command.main() == 1
    out = capsys.readouterr().out
    assert "SEED=1 SCHEDULES=1: Violation: bytes of requests that nobody freed" in out
    monkeypatch.setattr(sys, "argv", ["schedules", "--schedules", "1", "--seed", "1"])
    assert command.main() == 1
    assert "request 0 is answered" in capsys.readouterr().out
