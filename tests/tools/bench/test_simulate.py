"""The simulation, against closed forms, recorded figures and cases that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from jitney.server.batching.queue import Reason
from jitney.tools.bench.policies import TorchServeQueue, make_queue
from jitney.tools.bench.simulate import SimulatedServer, main, simulate, theory
from jitney.tools.bench.traces import TRACES

SERVER = SimulatedServer(max_rows=32, t0=0.003, a=0.0002)


def arrivals(trace: str, rate: float, count: int) -> list[float]:
    times: list[float] = TRACES[trace](rate, count, np.random.default_rng(7)).tolist()
    return times


@pytest.mark.parametrize(("rate", "mean_ms", "p99_ms"), [(200, 4.2, 6.6), (1000, 5.8, 8.5), (2000, 7.8, 12.0)])
def test_zero_delay_is_as_fast_as_known(rate: float, mean_ms: float, p99_ms: float) -> None:
    result = simulate(make_queue("zero", 32), arrivals("poisson", rate, 20_000), SERVER)
    assert result.mean * 1000 == pytest.approx(mean_ms, rel=0.04)
    assert result.p99 * 1000 == pytest.approx(p99_ms, rel=0.06)
    bound = theory(rate, SERVER)
    assert bound is not None
    assert result.mean <= bound * 1.03


def test_every_policy_costs_what_it_must() -> None:
    times = arrivals("poisson", 200, 10_000)
    zero, delay, served = (simulate(make_queue(name, 32), times, SERVER) for name in ("zero", "delay:5", "ts:100"))
    assert zero.mean < delay.mean < served.mean
    assert zero.p99 < delay.p99 < served.p99
    assert zero.busy > delay.busy > served.busy
    assert served.mean * 1000 == pytest.approx(61.7, rel=0.05)


def test_requests_counted_by_hand() -> None:
    server = SimulatedServer(max_rows=2, t0=1.0, a=0.5)
    result = simulate(make_queue("zero", 2), [0.0, 0.25, 0.5, 0.75], server)
    assert result.latencies.tolist() == [1.5, 3.25, 3.0, 4.25]  # alone 0 to 1.5, two to 3.5, alone to 5
    assert (result.batches, result.mean_batch, result.busy) == (3, 4 / 3, 1.0)
    assert result.reasons[Reason.FULL] == 1
    assert result.reasons[Reason.IDLE] == 2


def test_torchserves_clock_starts_when_a_worker_takes_the_first() -> None:
    server = SimulatedServer(max_rows=4, t0=1.0, a=0.0001)
    lone = simulate(TorchServeQueue(4, 0.5), [0.0], server)
    assert lone.latencies[0] == pytest.approx(1.5001)
    backlog = simulate(TorchServeQueue(4, 0.5), [0.0, 0.6, 0.7], server)
    assert backlog.latencies[1] == pytest.approx(1.5001 - 0.6 + 0.5 + 1.0002)  # it pays the delay again
    assert simulate(TorchServeQueue(4, 0.0), [0.0, 0.1, 0.2, 0.3], server).batches == 3  # without a delay never above two


def test_workers_share_the_load() -> None:
    times = arrivals("poisson", 3000, 10_000)
    one, two = (simulate(make_queue("zero", 32), times, SimulatedServer(32, 0.003, 0.0002, workers)) for workers in (1, 2))
    assert two.mean < one.mean
    assert two.mean_batch < one.mean_batch


def test_workers_of_one_device_take_turns() -> None:
    two = SimulatedServer(max_rows=1, t0=1.0, a=0.5, workers=2, devices=1)
    assert simulate(make_queue("zero", 1), [0.0, 0.0], two).latencies.tolist() == [1.5, 3.0]
    apart = SimulatedServer(max_rows=1, t0=1.0, a=0.5, workers=2)
    result = simulate(make_queue("zero", 1), [0.0, 0.0], apart)
    assert (result.latencies.tolist(), result.busy) == ([1.5, 1.5], 1.0)
    assert (two.capacity, apart.capacity) == (1 / 1.5, 2 / 1.5)


def test_full_batches_are_sent_ahead_and_others_are_not() -> None:
    one = SimulatedServer(max_rows=2, t0=1.0, a=0.5, gap=0.5)
    two = SimulatedServer(max_rows=2, t0=1.0, a=0.5, gap=0.5, in_flight=2)
    times = [0.0, 0.1, 0.1, 0.1]
    # Alone 0.5 to 2; then a full batch, which left at once or waited for the worker, and the last request, which always waits.
    assert simulate(make_queue("zero", 2), times, one).latencies.tolist() == pytest.approx([2.0, 4.4, 4.4, 6.4])
    assert simulate(make_queue("zero", 2), times, two).latencies.tolist() == pytest.approx([2.0, 3.9, 3.9, 5.9])


def test_where_ends_are_foreseen_any_batch_leaves_so_much_before_as_it_is_on_its_way() -> None:
    server = SimulatedServer(max_rows=2, t0=1.0, a=0.5, gap=0.5, foresees=True)
    # Alone 0.5 to 2; the next leaves at 1.5 and runs from 2 to 3.5; the last comes after 3, when another might have left.
    assert simulate(make_queue("zero", 2), [0.0, 0.1, 3.2], server).latencies.tolist() == pytest.approx([2.0, 3.4, 2.0])
    assert server.capacity == 2 / 2.0


def test_a_foreseen_end_costs_none_and_gains_the_way_at_every_load() -> None:
    seen, unseen = (SimulatedServer(32, 0.003, 0.0002, gap=0.0005, foresees=foresees) for foresees in (True, False))
    for rate in (300, 1500, 2700):
        times = arrivals("poisson", rate, 20_000)
        early, late = (simulate(make_queue("zero", 32), times, server) for server in (seen, unseen))
        assert late.mean - early.mean > 0.0001
        assert early.p99 < late.p99


@pytest.mark.parametrize("devices", [0, 1])
def test_at_saturation_a_batch_in_flight_hides_the_way_to_the_worker(devices: int) -> None:
    for in_flight in (1, 2, 3):
        server = SimulatedServer(32, 0.003, 0.0002, workers=2, devices=devices, host=0.001, gap=0.0005, in_flight=in_flight)
        times = [0.0] * 3200
        result = simulate(make_queue("zero", 32), times, server)
        assert len(times) / result.latencies.max() == pytest.approx(server.capacity, rel=0.02)
        assert result.mean_batch == 32


def test_the_capacity_is_the_measured_one() -> None:
    """docs/benchmarks.md, "Batches sent ahead": 2,927 and 3,082 requests/s."""
    server = SimulatedServer(32, 0.003, 0.0002, host=0.00098, gap=0.00055)
    assert server.capacity == pytest.approx(2927, rel=0.01)
    assert replace(server, in_flight=2).capacity == pytest.approx(3082, rel=0.01)


def test_a_second_worker_hides_the_hosts_part() -> None:
    one, two = (SimulatedServer(1, t0=1.0, a=0.5, workers=workers, devices=1, host=1.0) for workers in (1, 2))
    assert simulate(make_queue("zero", 1), [0.0, 0.0], one).latencies.tolist() == [2.5, 5.0]
    result = simulate(make_queue("zero", 1), [0.0, 0.0], two)
    assert result.latencies.tolist() == [2.5, 4.0]
    assert result.busy == 3.0 / 4.0
    assert (one.capacity, two.capacity) == (1 / 2.5, 1 / 1.5)


def test_three_workers_on_two_devices() -> None:
    result = simulate(make_queue("zero", 1), [0.0, 0.0, 0.0], SimulatedServer(1, t0=1.0, a=0.5, workers=3, devices=2))
    assert result.latencies.tolist() == [1.5, 1.5, 3.0]


def test_preferred_sizes_leave_at_once() -> None:
    times = [0.0, 0.1, 0.2, 0.3]
    server = SimulatedServer(max_rows=8, t0=0.01, a=0.001)
    result = simulate(make_queue("delay:1000:2", 8), times, server)
    assert result.sizes == {2: 2}
    assert result.reasons[Reason.PREFERRED] == 2
    assert simulate(make_queue("delay:1000", 8), times, server).sizes == {4: 1}
    assert simulate(make_queue("alone", 8), times, server).sizes == {1: 4}


@pytest.mark.parametrize("trace", sorted(TRACES))
def test_traces_are_in_order_and_keep_their_rate(trace: str) -> None:
    times = arrivals(trace, 500, 60_000)
    assert len(times) == 60_000
    assert all(a <= b for a, b in pairwise(times))
    assert len(times) / (times[-1] - times[0]) == pytest.approx(500, rel=0.1)


def test_theory_knows_its_limits() -> None:
    assert theory(5001, SERVER) is None
    assert theory(100, SimulatedServer(32, 0.003, 0.0002, workers=2)) is None


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rates", "100", "--requests", "500", "--policies", "zero", "ts:10"]) == 0
    head, columns, zero, torchserve, bound = capsys.readouterr().out.splitlines()
    assert "at most 3404 requests/s" in head
    assert columns.split()[:2] == ["req/s", "policy"]
    assert [line.split()[1] for line in (zero, torchserve, bound)] == ["zero", "ts:10", "theory"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--policies", "delay:-1"], "a policy is zero, alone, delay:MS, delay:MS:SIZES or ts:MS, got 'delay:-1'"),
        (["--policies", "magic"], "got 'magic'"),
        (["--policies", "ts:5:8"], "got 'ts:5:8'"),
        (["--policies", "delay:5:64"], "between 1 and max_batch_size 32, got 64"),
        (["--devices", "2"], "2 devices need as many workers at least, got 1"),
        (["--rates", "0"], "expected a number above 0, got 0"),
        (["--requests", "2000000"], "expected 1 to 1000000, got 2000000"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
