"""Requests on their way through queue, worker and back, with real worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jitney.core.call import Call, Target
from jitney.core.errors import (
    BatchTooWide,
    Cancelled,
    Draining,
    InvalidTensor,
    JitneyError,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    NoWorkers,
    QueueFull,
    QueueTimeout,
    VersionNotFound,
    WorkerDied,
)
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Part, Request, Response
from jitney.core.tensor import Tensor
from jitney.server.batching import closed_loop
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.deployment import MakeRequest, OnAnswer, Options
from jitney.server.serving.ensemble import EnsembleDeployment
from jitney.server.serving.worker_deployment import WorkerDeployment
from jitney.tests.fakes.plane import LoadedPlane, doubling, first, loaded, rows, sizes
from jitney.tools.bench.served import wait_until

DELAY = "dynamic_batching { max_queue_delay_microseconds: 50000 }"
PATIENCE = 20.0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedPlane]:
    folder = tmp_path_factory.mktemp("models")
    doubling(folder, "at_once", "dynamic_batching { }")
    for name in ("eight", "three", "nine"):
        doubling(folder, name, DELAY)
    doubling(folder, "shapes", DELAY, dims="-1")
    doubling(folder, "ordered", "dynamic_batching { preserve_ordering: true }", instances=2)
    doubling(folder, "slow", "dynamic_batching { default_queue_policy { max_queue_size: 2 } }", seconds=0.3)
    policy = "default_queue_policy { default_timeout_microseconds: 50000 }"
    doubling(folder, "impatient", f"dynamic_batching {{ {policy} }}", seconds=0.3)
    doubling(folder, "poisoned", "dynamic_batching { max_queue_delay_microseconds: 200000 }")
    doubling(folder, "broken")
    (folder / "broken" / "1" / "model.py").write_text("raise RuntimeError('no such weights')")
    with loaded(folder) as plane:
        yield plane


def burst(plane: DataPlane, model: str, count: int) -> tuple[list[Call], float]:
    began = time.monotonic()
    return [plane.infer(model, None, rows(float(i))) for i in range(count)], began


def left(plane: DataPlane, model: str) -> dict[str, int]:
    """How many batches left for which reason."""
    return {reason: count for reason, count in plane.statistics(model)[0].departures.items() if count}


def test_a_full_batch_leaves_at_once(plane: DataPlane) -> None:
    calls, _ = burst(plane, "eight", 8)
    assert [first(call.result(PATIENCE)) for call in calls] == [[2.0 * i] for i in range(8)]
    assert sizes(plane, "eight") == {8: 1}
    assert left(plane, "eight") == {"full": 1}


def test_an_unfilled_batch_leaves_after_the_delay(plane: DataPlane) -> None:
    calls, began = burst(plane, "three", 3)
    assert [first(call.result(PATIENCE)) for call in calls] == [[0.0], [2.0], [4.0]]
    assert time.monotonic() - began >= 0.049
    assert sizes(plane, "three") == {3: 1}
    assert left(plane, "three") == {"delay": 1}


def test_nine_leave_as_eight_and_one(plane: DataPlane) -> None:
    calls, began = burst(plane, "nine", 9)
    assert [first(call.result(PATIENCE)) for call in calls] == [[2.0 * i] for i in range(9)]
    assert time.monotonic() - began >= 0.049
    assert calls[8].times.dispatched - calls[8].times.arrived >= 49_000_000
    assert sizes(plane, "nine") == {8: 1, 1: 1}
    assert left(plane, "nine") == {"full": 1, "delay": 1}


def test_two_shapes_interleaved_fill_both_lanes(plane: DataPlane) -> None:
    calls = [plane.infer("shapes", None, rows(1.0, width=2 + i % 2)) for i in range(16)]
    answers = [call.result(PATIENCE).tensors[0].shape for call in calls]
    assert answers == [(1, 2), (1, 3)] * 8
    assert sizes(plane, "shapes") == {8: 2}


def test_one_poisoned_request_fails_alone(plane: DataPlane) -> None:
    calls = [plane.infer("poisoned", None, rows(-1.0 if i == 13 else float(i))) for i in range(32)]
    for i, call in enumerate(calls):
        if i == 13:
            with pytest.raises(ModelFailed, match="poisoned"):
                call.result(PATIENCE)
        else:
            assert first(call.result(PATIENCE)) == [2.0 * i]
    assert sizes(plane, "poisoned") == {8: 4}


def test_rows_count_not_requests(plane: DataPlane) -> None:
    assert first(plane.infer("at_once", None, rows(1.0, 2.0, 3.0)).result(PATIENCE)) == [2.0, 4.0, 6.0]
    assert 3 in sizes(plane, "at_once")


def test_answers_keep_the_order_of_arrival_where_that_is_declared(plane: DataPlane) -> None:
    calls = [plane.infer("ordered", None, rows(float(i))) for i in range(40)]
    deadline = time.monotonic() + PATIENCE
    last = -1
    while last < len(calls) - 1 and time.monotonic() < deadline:
        last = max((i for i, call in enumerate(calls) if call.delivered), default=-1)
        assert all(call.delivered for call in calls[: max(last, 0)]), "an answer overtook an earlier one"
    assert last == len(calls) - 1


def test_a_full_queue_refuses_at_once(plane: DataPlane) -> None:
    calls: list[Call] = []
    with pytest.raises(QueueFull):
        while True:
            calls.append(plane.infer("slow", None, rows(1.0)))
    assert 3 <= len(calls) <= 4  # one batch on its way, two that wait
    for call in calls:
        call.result(PATIENCE)


def test_a_full_queue_refuses_before_a_request_is_decoded(plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = plane.registry.deployment("slow", None)
    decoded: list[object] = []
    usual = deployment.codec.read
    monkeypatch.setattr(deployment.codec, "read", lambda *arguments: decoded.append(arguments) or usual(*arguments))
    before = deployment.statistics.snapshot().fail.count
    calls = [plane.infer("slow", None, rows(1.0)) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(QueueFull):
            plane.predict("slow", None, Request(parts=[Part("body", b"[[1, 2]]", "application/json")]))
    with pytest.raises(QueueFull):
        plane.refuse_if_full("slow", None)
    assert not decoded and deployment.statistics.snapshot().fail.count == before + 3
    for call in calls:
        call.result(PATIENCE)
    taken = plane.predict("slow", None, Request(parts=[Part("body", b"[[1, 2]]", "application/json")]))
    taken.result(PATIENCE)
    assert len(decoded) == 1


def test_a_request_that_is_too_wide_is_told_so_by_a_full_queue_too(plane: DataPlane) -> None:
    calls = [plane.infer("slow", None, rows(1.0)) for _ in range(3)]
    with pytest.raises(BatchTooWide):
        plane.infer("slow", None, rows(*range(9)))
    for call in calls:
        call.result(PATIENCE)


def test_an_expired_request_is_answered_at_its_deadline_and_not_when_a_worker_is_free(plane: DataPlane) -> None:
    running = plane.infer("impatient", None, rows(1.0))
    began = time.monotonic()
    waiting = plane.infer("impatient", None, rows(2.0))
    with pytest.raises(QueueTimeout):
        waiting.result(PATIENCE)
    assert 0.045 < time.monotonic() - began < 0.2
    assert first(running.result(PATIENCE)) == [2.0]


def test_a_cancelled_request_never_runs(plane: DataPlane) -> None:
    before = plane.statistics("slow")[0]
    running = plane.infer("slow", None, rows(1.0))
    waiting = plane.infer("slow", None, rows(2.0))
    assert waiting.cancel()
    running.result(PATIENCE)
    with pytest.raises(Cancelled):
        waiting.result(PATIENCE)
    after = plane.statistics("slow")[0]
    assert after.execution_count == before.execution_count + 1
    assert after.failures["CANCELED"] == before.failures["CANCELED"] + 1


@pytest.mark.parametrize(
    ("model", "version", "request_", "error", "text"),
    [
        ("nothing", None, rows(1.0), ModelNotFound, "nothing"),
        ("at_once", "7", rows(1.0), VersionNotFound, "7"),
        ("broken", None, rows(1.0), ModelNotReady, "no such weights"),
        ("at_once", None, rows(*range(9)), BatchTooWide, "<= 8"),
        ("at_once", None, rows(1.0, width=3), InvalidTensor, r"\[-1,2\], got \[1,3\]"),
        ("at_once", None, rows(1.0, name="z"), InvalidTensor, "'z'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    plane: DataPlane, model: str, version: str | None, request_: object, error: type[JitneyError], text: str
) -> None:
    with pytest.raises(error, match=text):
        plane.infer(model, version, request_)  # type: ignore[arg-type]


def test_a_model_that_cannot_load_is_listed_with_its_reason(plane: LoadedPlane) -> None:
    entry = next(entry for entry in plane.index() if entry.name == "broken")
    assert entry.state == "UNAVAILABLE"
    assert "no such weights" in entry.reason
    assert not plane.model_ready("broken")
    assert plane.model_ready("at_once")


def test_scaling_to_no_workers_answers_what_waits(tmp_path: Path) -> None:
    doubling(tmp_path, "slow", "dynamic_batching { }", seconds=0.3)
    with loaded(tmp_path) as plane:
        deployment = plane.registry.deployment("slow")
        assert isinstance(deployment, WorkerDeployment)
        running = plane.infer("slow", None, rows(1.0))
        waiting = [plane.infer("slow", None, rows(float(i))) for i in range(3)]
        deployment.scale(0)
        for call in waiting:
            with pytest.raises(NoWorkers, match="has no workers"):
                call.result(PATIENCE)
        assert first(running.result(PATIENCE)) == [2.0]
        assert not deployment.queued()
        wait_until(lambda: deployment.arena.slots == 0, PATIENCE, "the arena")


def test_workers_that_give_up_leave_nobody_waiting(tmp_path: Path) -> None:
    doubling(tmp_path, "doomed", "dynamic_batching { }", seconds=0.3)
    with loaded(tmp_path) as plane:
        config = replace(plane.config("doomed"), max_retry_timeout_s=0.5)
        deployment = WorkerDeployment(config, Options())
        try:
            deployment.start(1)
            deployment.wait_ready(PATIENCE)
            running, waiting = deployment.submit(rows(1.0)), deployment.submit(rows(2.0))
            (tmp_path / "doomed" / "1" / "model.py").write_text("raise RuntimeError('the disk is gone')")
            os.kill(deployment.workers()[0].pid, signal.SIGKILL)
            with pytest.raises(WorkerDied):
                running.result(PATIENCE)
            with pytest.raises(NoWorkers, match="the disk is gone"):
                waiting.result(PATIENCE)
            with pytest.raises(NoWorkers):
                deployment.submit(rows(3.0))
        finally:
            deployment.close(0)


@pytest.mark.parametrize("workers", [1, 2])
def test_who_came_before_a_failure_to_load_was_known_hears_of_it_at_once(tmp_path: Path, workers: int) -> None:
    doubling(tmp_path, "broken")
    with loaded(tmp_path) as plane:
        config = plane.config("broken")
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
    (tmp_path / "broken" / "1" / "model.py").write_text(wait + "import a_package_nobody_has\n")
    deployment = WorkerDeployment(config, Options())
    try:
        deployment.start(workers, retry=True)
        waiting = [deployment.submit(rows(float(i))) for i in range(3)]
        (tmp_path / "go").touch()
        for call in waiting:
            with pytest.raises(NoWorkers, match="a_package_nobody_has"):
                call.result(PATIENCE)
        with pytest.raises(NoWorkers, match="a_package_nobody_has"):
            deployment.submit(rows(3.0))
        assert not deployment.queued()
        assert deployment.arena.slots == 0
    finally:
        deployment.close(0)


def test_who_waits_for_a_model_that_does_not_finish_loading_hears_of_it_when_its_time_is_over(tmp_path: Path) -> None:
    doubling(tmp_path, "endless")
    with loaded(tmp_path) as plane:
        config = replace(plane.config("endless"), startup_timeout_s=1.0)
    (tmp_path / "endless" / "1" / "model.py").write_text("import threading\nthreading.Event().wait()\n")
    deployment = WorkerDeployment(config, Options())
    try:
        deployment.start(1, retry=True)
        with pytest.raises(NoWorkers, match=r"not loaded within 1 s .startup_timeout"):
            deployment.submit(rows(1.0)).result(PATIENCE)
        with pytest.raises(NoWorkers, match="not loaded within 1 s"):  # though the next attempt is under way
            deployment.submit(rows(2.0))
    finally:
        deployment.close(0)


def test_an_answer_that_nobody_can_take_costs_the_others_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doubling(tmp_path, "eight", DELAY)

    def refuse(answer: object) -> None:
        raise RuntimeError("the loop is closed")

    with loaded(tmp_path) as plane:
        deployment = plane.registry.deployment("eight")
        (before,) = deployment.workers()
        calls = [plane.infer("eight", None, rows(0.0))]
        deployment.submit(rows(9.0), on_answer=refuse)
        calls += [plane.infer("eight", None, rows(float(i))) for i in (1, 2)]
        assert [first(call.result(PATIENCE)) for call in calls] == [[0.0], [2.0], [4.0]]
        (after,) = deployment.workers()
        assert after.pid == before.pid
        assert "the loop is closed" in caplog.text


def test_an_ensemble_answers_whatever_goes_wrong_between_its_steps() -> None:
    class Broken:
        def step(self, model: str, version: str | None, make: MakeRequest, on_answer: OnAnswer, target: Target) -> Call:
            if model == "first":
                call = Call(Request(), on_answer=on_answer)
                call.answer(Response([Tensor.from_numpy("y", np.zeros((1, 2), np.float32))]))
                return call
            raise ValueError("memory that is gone")

        def arena(self, model: str, version: str | None) -> None:
            return None

        def model_ready(self, model: str, version: str | None = None) -> bool:
            return True

    names = [("first", "x", "between"), ("second", "between", "y")]
    steps = [{"model_name": m, "input_map": {"x": i}, "output_map": {"y": o}} for m, i, o in names]
    outputs = (TensorSpec("y", "FP32", (2,)),)
    ensemble = EnsembleDeployment(ModelConfig("e", "1", "ensemble", outputs=outputs, ensemble={"step": steps}), Broken())
    with pytest.raises(ModelFailed, match="memory that is gone"):
        ensemble.submit(rows(1.0)).result(1.0)


def test_closing_answers_what_was_accepted(tmp_path: Path) -> None:
    doubling(tmp_path, "slow", "dynamic_batching { }", seconds=0.2)
    with loaded(tmp_path) as plane:
        calls = [plane.infer("slow", None, rows(float(i))) for i in range(20)]
        deployment = plane.registry.deployment("slow")
        deployment.close(PATIENCE)
        assert [first(call.result(0)) for call in calls] == [[2.0 * i] for i in range(20)]
        with pytest.raises(Draining):
            deployment.submit(rows(1.0))


@pytest.mark.parametrize(("scheduler", "together"), [("dynamic_batching { }", True), (DELAY.replace("50000", "1"), False)])
def test_threads_that_ask_again_at_once_are_served_together_unless_a_delay_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, together: bool
) -> None:
    monkeypatch.setattr(closed_loop, "SHARE", 100)  # however busy the machine is
    monkeypatch.setattr(closed_loop, "LONGEST_S", 1.0)
    doubling(tmp_path, "steady", scheduler, seconds=0.02)
    with loaded(tmp_path) as plane:
        calls: list[list[Call]] = [[], []]

        def ask(mine: list[Call]) -> None:
            for turn in range(60):
                mine.append(plane.infer("steady", None, rows(float(turn))))
                assert first(mine[-1].result(PATIENCE)) == [2.0 * turn]

        threads = [threading.Thread(target=ask, args=(mine,)) for mine in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        sizes = [call.batch_rows for mine in calls for call in mine[40:55]]
    assert (set(sizes) == {2}) is together, sizes
