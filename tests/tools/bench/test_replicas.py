"""Several replicas in simulated time: one is the simulator of one server, and each request is answered once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jitney.tools.bench.policies import make_queue
from jitney.tools.bench.replicas import Cluster, Outcome, simulate_replicas
from jitney.tools.bench.routing import RULES
from jitney.tools.bench.scaling import Autoscaler, Rule
from jitney.tools.bench.simulate import SimulatedServer, simulate
from jitney.tools.bench.traces import TRACES

SERVER = SimulatedServer(max_rows=32, t0=0.003, a=0.0002)


def arrivals(rate: float, count: int, trace: str = "poisson") -> list[float]:
    times: list[float] = TRACES[trace](rate, count, np.random.default_rng(7)).tolist()
    return times


def each_answered_once(outcome: Outcome, when: list[float], server: SimulatedServer = SERVER) -> None:
    assert len(outcome.latencies) == len(when)
    assert not np.isnan(outcome.latencies).any()
    assert outcome.latencies.min() >= server.t0 + server.a - 1e-9
    assert 0 < outcome.busy <= 1.0 + 1e-9


@pytest.mark.parametrize("policy", ["zero", "alone", "delay:5", "delay:5:8,16", "ts:10"])
@pytest.mark.parametrize("server", [SERVER, SimulatedServer(16, 0.003, 0.0002, workers=4, devices=2, host=0.001)])
@pytest.mark.parametrize("trace", ["poisson", "bursts"])
def test_one_replica_is_the_simulator_to_the_last_digit(policy: str, server: SimulatedServer, trace: str) -> None:
    when = arrivals(250, 1500, trace)
    alone = simulate(make_queue(policy, server.max_rows), when, server)
    one = simulate_replicas(Cluster(server, policy=policy), when)
    assert np.array_equal(one.latencies, alone.latencies)
    assert one.batches == alone.batches
    assert one.busy == pytest.approx(alone.busy)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("routers", [1, 3])
def test_every_rule_answers_each_request_once(rule: str, routers: int) -> None:
    when = arrivals(0.7 * 5 * SERVER.capacity, 4000)
    cluster = Cluster(SERVER, 5, rule=rule, routers=routers, slow={2: 2.0})
    first, again = (simulate_replicas(cluster, when, seed=3) for _ in range(2))
    each_answered_once(first, when)
    assert np.array_equal(first.latencies, again.latencies)


def test_rules_counted_by_hand() -> None:
    cluster = Cluster(SimulatedServer(max_rows=2, t0=1.0, a=0.5), 2)
    when = [0.0, 0.05, 1.0, 1.1]  # two run alone until 1.5 and 1.55
    joined = simulate_replicas(replace(cluster, rule="batch_aware"), when)
    assert joined.batches == 3  # the fourth joins the third, whose batch leaves at 1.5
    assert joined.latencies.tolist() == pytest.approx([1.5, 1.5, 2.5, 2.4])
    spread = simulate_replicas(replace(cluster, rule="least_rows"), when)
    assert spread.batches == 4
    assert sorted(spread.latencies.tolist()[:2]) == pytest.approx([1.5, 1.5])


def test_a_slow_replica_hurts_those_who_count_nothing() -> None:
    when = arrivals(0.5 * 8 * SERVER.capacity, 8000)
    p99 = {rule: simulate_replicas(Cluster(SERVER, 8, rule=rule, slow={0: 3.0}), when).p99 for rule in RULES}
    assert p99["least_rows"] < 0.5 * p99["round_robin"]
    assert p99["batch_aware"] < p99["least_rows"]


def test_more_replicas_have_emptier_batches() -> None:
    when = arrivals(0.9 * SERVER.capacity, 8000)
    sizes = [simulate_replicas(Cluster(SERVER, count, rule="round_robin"), when).mean_batch for count in (1, 2, 4)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


@pytest.mark.parametrize("known", [0.0, 1.0])
def test_a_replica_that_fails_loses_no_request(known: float) -> None:
    when = arrivals(0.5 * 4 * SERVER.capacity, 12_000)
    got = simulate_replicas(Cluster(SERVER, 4, failures=((0.5, 1, known),), restart=0.5), when)
    each_answered_once(got, when)
    assert got.repeated > 0
    assert got.latencies.max() >= known
    if not known:
        assert got.latencies.max() < 0.1


def test_the_last_replica_s_end_is_told_and_wrong_numbers_too() -> None:
    with pytest.raises(RuntimeError, match="can never be answered"):
        simulate_replicas(Cluster(SERVER, 1, failures=((0.01, 0, 5.0),)), arrivals(100, 50)[:5])
    with pytest.raises(ValueError, match="0 to 1, got 2"):
        Cluster(SERVER, 2, slow={2: 2.0})
    with pytest.raises(ValueError, match="at least"):
        Cluster(SERVER, 0)
    with pytest.raises(ValueError, match="a rule is one of"):
        simulate_replicas(Cluster(SERVER, 2, rule="nearest"), [0.0])


def test_an_autoscaler_follows_the_load_and_loses_no_request() -> None:
    server = SimulatedServer(max_rows=8, t0=0.06, a=0.004)
    quiet, busy = arrivals(0.3 * server.capacity, 300), arrivals(2.4 * server.capacity, 6000)
    when = [*quiet, *(quiet[-1] + at for at in busy), *(quiet[-1] + busy[-1] + at for at in quiet)]
    scaler = Autoscaler(Rule("ongoing", 1.0, most=6, interval=0.5, start=1.0, calm=2.0))
    got = simulate_replicas(Cluster(server), when, prepare=scaler)
    each_answered_once(got, when, server)
    counts = [count for _, count in scaler.history]
    assert counts[0] == 1
    assert max(counts) == got.most >= 3
    assert counts[-1] <= 2
    assert got.replica_seconds < got.most * when[-1]


@pytest.mark.parametrize(("signal", "target"), [("ongoing", 1.0), ("waiting", 0.5), ("queue_time", 0.05), ("busy", 0.7)])
def test_every_signal_adds_replicas_where_one_is_too_few(signal: str, target: float) -> None:
    server = SimulatedServer(max_rows=8, t0=0.06, a=0.004)
    when = arrivals(2.0 * server.capacity, 4000)
    got = simulate_replicas(Cluster(server), when, prepare=Autoscaler(Rule(signal, target, most=8, interval=0.5, start=0.5)))
    each_answered_once(got, when, server)
    assert got.most >= 3


def test_rules_of_scaling_are_checked() -> None:
    with pytest.raises(ValueError, match="a signal is one of ongoing, waiting, queue_time, busy"):
        Rule("cpu", 0.5)
    with pytest.raises(ValueError, match="target above 0"):
        Rule("busy", 0.0)
