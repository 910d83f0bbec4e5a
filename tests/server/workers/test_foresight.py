"""How long a batch will take, and what becomes of it: the next batch is on its way when the present one ends."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from jitney.core.call import Call
from jitney.core.errors import WorkerTimeout
from jitney.server.workers.foresight import FIRST, WORTH_S, Foresight
from jitney.tests.fakes.plane import LoadedPlane, doubling, first, loaded, rows
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0


def taught(batches: int, spread: float = 0.0, trip: float = 0.0005) -> Foresight:
    """Of a model that takes 3 ms + 0.2 ms a row, give or take `spread` seconds."""
    dice, foresight = random.Random(1), Foresight()
    for _ in range(batches):
        size = dice.randint(1, 32)
        foresight.learn(size, 0.003 + 0.0002 * size + dice.uniform(-spread, spread), trip)
    return foresight


def test_the_time_is_told_by_the_rows_also_by_numbers_of_them_that_never_came() -> None:
    foresight = taught(100)
    assert [foresight.lasts(size) for size in (1, 16, 40)] == pytest.approx([0.0032, 0.0062, 0.011])
    assert foresight.trip == pytest.approx(0.0005)


def test_nothing_is_foreseen_before_some_batches_were_seen() -> None:
    assert taught(FIRST - 1).lasts(4) == inf
    assert taught(FIRST).lasts(4) == pytest.approx(0.0038)


def test_nothing_is_foreseen_where_times_vary_by_more_than_the_way_takes() -> None:
    assert taught(200, spread=0.0006).lasts(8) == pytest.approx(0.0046, abs=0.0004)
    assert taught(200, spread=0.002).lasts(8) == inf


def test_the_way_is_known_only_from_batches_that_found_their_worker_idle() -> None:
    foresight = Foresight()
    for _ in range(50):
        foresight.learn(4, 0.010)
    assert foresight.lasts(4) == inf
    foresight.learn(4, 0.010, 0.0004)
    foresight.learn(4, 0.010, -0.001)  # clocks of two processes: no way takes less than nothing
    assert [foresight.lasts(4), foresight.trip] == pytest.approx([0.010, 0.0002])


def test_batches_that_take_next_to_nothing_are_not_worth_it() -> None:
    for seconds, known in ((WORTH_S * 0.9, False), (WORTH_S * 1.1, True)):
        foresight = Foresight()
        for _ in range(20):
            foresight.learn(4, seconds, 0.0003)
        assert (foresight.lasts(4) < inf) is known


def test_a_slow_first_batch_is_forgotten_and_a_model_that_changes_is_followed() -> None:
    foresight = Foresight()
    foresight.learn(1, 0.5, 0.0005)
    for _ in range(400):
        foresight.learn(4, 0.010, 0.0005)
    assert foresight.lasts(4) == pytest.approx(0.010, rel=0.01)
    for _ in range(400):
        foresight.learn(4, 0.020, 0.0005)
    assert foresight.lasts(4) == pytest.approx(0.020, rel=0.01)


def test_more_rows_are_never_thought_to_take_less() -> None:
    foresight = Foresight()
    for _ in range(50):
        foresight.learn(1, 0.0104, 0.001)
        foresight.learn(30, 0.0100, 0.001)
    assert foresight.lasts(30) == foresight.lasts(1)


def test_a_moment_in_which_the_server_stood_still_is_no_way_that_others_take() -> None:
    foresight = taught(300)
    foresight.learn(4, 0.0038, 5.0)  # stopped by a signal
    for _ in range(100):
        foresight.learn(4, 0.0038)  # and since then the load left no worker idle
    assert foresight.trip == pytest.approx(0.0005, rel=0.1)


def test_a_slow_first_way_does_not_make_times_that_vary_foreseeable() -> None:
    dice, foresight = random.Random(1), Foresight()
    for batch in range(100):
        foresight.learn(4, dice.uniform(0.003, 0.05), 0.0005 if batch else 1.0)
        assert foresight.lasts(4) == inf


def test_ways_that_have_become_longer_for_good_are_followed() -> None:
    foresight = taught(300)
    for _ in range(300):
        foresight.learn(4, 0.0038, 0.010)
    assert foresight.trip == pytest.approx(0.010, rel=0.01)


def test_long_ways_do_not_make_times_foreseeable_that_vary_by_more_than_half() -> None:
    dice, foresight = random.Random(1), Foresight()
    for _ in range(200):
        foresight.learn(4, dice.choice((0.003, 0.030)), 0.020)
        assert foresight.lasts(4) == inf


def test_what_a_row_takes_is_still_known_after_any_number_of_batches_that_were_alike() -> None:
    foresight = taught(100)
    for _ in range(40_000):
        foresight.learn(8, 0.0046, 0.0005)
    assert [foresight.lasts(size) for size in (4, 8, 16)] == pytest.approx([0.0038, 0.0046, 0.0062], rel=0.01)


# ---- real workers, whose ends are foreseen too early, so that what follows from it can be seen


ASKS = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        value = int(x[0, 0])
        if value in (1, 3):
            time.sleep(0.15)
            asked = "asks" if value == 1 else "slow"
            inputs = [pb_utils.Tensor("x", x + 1)]
            return pb_utils.InferenceRequest(model_name=asked, requested_output_names=["y"], inputs=inputs).exec()
        time.sleep(60 if value == 6 else 0.3)
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)])
"""


def all_last(monkeypatch: pytest.MonkeyPatch, seconds: float, trip: float) -> None:
    """All batches are thought to be over after so long, and their ends to be known by twice the way after that."""
    monkeypatch.setattr(Foresight, "lasts", lambda self, rows: seconds)
    monkeypatch.setattr(Foresight, "learn", lambda self, rows, took, trip=None: None)
    made = Foresight.__init__
    monkeypatch.setattr(Foresight, "__init__", lambda self: (made(self), setattr(self, "trip", trip))[0])


def asking(folder: Path) -> None:
    """A model of two workers: 1 asks itself with 2, 3 the model "slow" with 4, 6 hangs, others are doubled in 0.3 s."""
    doubling(folder, "asks", "dynamic_batching { }", instances=2)
    (folder / "asks" / "1" / "model.py").write_text(ASKS)
    with (folder / "asks" / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "response_timeout" value { string_value: "8" } }\n')


@pytest.fixture
def overdue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadedPlane]:
    """No batch is over when it was to be."""
    all_last(monkeypatch, 0.05, trip=0.05)
    doubling(tmp_path, "slow", "dynamic_batching { }", seconds=2.0)
    asking(tmp_path)
    with loaded(tmp_path) as plane:
        yield plane


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadedPlane]:
    """All batches are thought to be over after 5 ms, or within the minute that follows."""
    all_last(monkeypatch, 0.005, trip=30.0)
    for name, seconds in (("slow", 1.0), ("strict", 0.3)):
        doubling(tmp_path, name, "dynamic_batching { }", seconds=seconds)
    with (tmp_path / "strict" / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "max_in_flight" value { string_value: "1" } }\n')
    asking(tmp_path)
    with loaded(tmp_path) as plane:
        yield plane


def test_one_batch_and_no_more_is_sent_to_a_worker_that_is_about_to_be_done(plane: LoadedPlane) -> None:
    deployment = plane.registry.deployment("slow")
    running, early = deployment.submit(rows(1.0)), deployment.submit(rows(2.0))
    wait_until(lambda: early.times.dispatched > 0, PATIENCE, "the timer")
    late = deployment.submit(rows(3.0))
    assert (running.done, early.done, deployment.queued()) == (False, False, 1)
    assert [first(call.result(PATIENCE)) for call in (running, early, late)] == [[2.0], [4.0], [6.0]]
    assert late.times.dispatched >= running.times.arrived + 1e9


def test_where_one_batch_at_a_time_is_declared_none_is_sent_early(plane: LoadedPlane) -> None:
    deployment = plane.registry.deployment("strict")
    running, second = deployment.submit(rows(1.0)), deployment.submit(rows(2.0))
    assert [first(call.result(PATIENCE)) for call in (running, second)] == [[2.0], [4.0]]
    assert second.times.dispatched >= running.times.arrived + 0.3e9


def test_a_request_of_a_model_to_itself_does_not_wait_behind_the_one_that_waits_for_it(plane: LoadedPlane) -> None:
    began = time.monotonic()
    asking, other = plane.infer("asks", None, rows(1.0)), plane.infer("asks", None, rows(5.0))
    assert first(asking.result(PATIENCE)) == [4.0]
    assert time.monotonic() - began < 5
    assert first(other.result(PATIENCE)) == [10.0]


def early_behind(plane: LoadedPlane, value: float) -> tuple[Call, Call, Call]:
    """Of a model with two workers: the call of this value, which is sent first, one in the other worker, and one behind the
    first."""
    deployment = plane.registry.deployment("asks")
    calls = deployment.submit(rows(value)), deployment.submit(rows(5.0)), deployment.submit(rows(7.0))
    wait_until(lambda: calls[2].times.dispatched > 0, PATIENCE, "the timer")
    assert deployment.queued() == 0
    assert calls[2].times.dispatched < calls[0].times.arrived + 0.15e9
    return calls


def test_what_was_sent_early_to_a_worker_that_hangs_is_run_by_another_one(overdue: LoadedPlane) -> None:
    began = time.monotonic()
    hangs, other, early = early_behind(overdue, 6.0)
    assert [first(call.result(PATIENCE)) for call in (other, early)] == [[10.0], [14.0]]
    assert (time.monotonic() - began < 5, hangs.done) == (True, False)
    with pytest.raises(WorkerTimeout):
        hangs.result(PATIENCE)


def test_what_was_sent_early_does_not_wait_for_what_the_model_before_it_asks(overdue: LoadedPlane) -> None:
    asks, other, early = early_behind(overdue, 3.0)
    assert [first(call.result(PATIENCE)) for call in (other, early)] == [[10.0], [14.0]]
    assert not asks.done
    assert first(asks.result(PATIENCE)) == [8.0]
    assert early.times.dispatched >= other.times.arrived + 0.3e9  # when the worker was free that has run it
