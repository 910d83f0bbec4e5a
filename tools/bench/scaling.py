"""Autoscaling in simulated time: a signal, a target, and the rule of Kubernetes' HPA and of Ray Serve.

    wanted = ceil(replicas that are up * signal / target), within bounds; fewer only where that was so for `calm` seconds

signal      of all replicas that are up                                                   target
ongoing     requests that a replica has, waiting or running, on average                   batches of `max_rows`
waiting     requests that wait at a replica, on average (jitney_queue_depth)              batches of `max_rows`
queue_time  mean of the seconds that requests waited since the last tick                  seconds
busy        share of the time since the last tick in which devices worked                 1 = always
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from .replicas import Replica, Simulation

SIGNALS = ("ongoing", "waiting", "queue_time", "busy")


@dataclass(frozen=True)
class Rule:
    """`interval`: seconds between ticks; `start`: seconds from the order to a replica that is ready."""

    signal: str
    target: float
    least: int = 1
    most: int = 1000
    interval: float = 5.0
    start: float = 30.0
    calm: float = 60.0

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise ValueError(f"a signal is one of {', '.join(SIGNALS)}, got '{self.signal}'")
        if self.target <= 0 or not 1 <= self.least <= self.most:
            raise ValueError("expected a target above 0 and 1 <= least <= most")


class Autoscaler:
    """Ticks within a `Simulation`; pass it as `prepare`."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.history: list[tuple[float, int]] = []  # (second, replicas up)
        self._wanted: list[tuple[float, int]] = []
        self._coming = 0
        self._work: dict[int, float] = {}

    def __call__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        simulation.at(self.rule.interval, self._tick)

    def _tick(self, now: float) -> None:
        simulation, rule = self._simulation, self.rule
        up = [simulation.replicas[number] for number in simulation.up]
        self.history.append((now, len(up)))
        if up:
            wanted = ceil(len(up) * self._ratio(up) - 1e-9)
            wanted = min(max(wanted, rule.least), rule.most)
            self._wanted = [(then, count) for then, count in self._wanted if then > now - rule.calm] + [(now, wanted)]
            there = len(up) + self._coming
            if wanted > there:
                self._order(wanted - there, now)
            else:
                self._end(there - max(count for _, count in self._wanted), now)
        if simulation.answered < len(simulation.latencies):
            simulation.at(now + rule.interval, self._tick)

    def _ratio(self, up: list[Replica]) -> float:
        """The mean of the signal over its target."""
        rule = self.rule
        if rule.signal in ("ongoing", "waiting"):
            there = sum(len(replica.items) if rule.signal == "ongoing" else replica.waiting for replica in up)
            return there / len(up) / (rule.target * up[0].server.max_rows)
        if rule.signal == "queue_time":
            waited, left = sum(replica.queued for replica in up), sum(replica.left for replica in up)
            for replica in up:
                replica.queued, replica.left = 0.0, 0
            return waited / max(left, 1) / rule.target
        before = sum(self._work.get(id(replica), 0.0) for replica in up)
        self._work = {id(replica): replica.workers.work for replica in up}
        return (sum(self._work.values()) - before) / (len(up) * up[0].server.device_count * rule.interval) / rule.target

    def _order(self, count: int, now: float) -> None:
        for _ in range(count):
            self._coming += 1
            self._simulation.add(now, now + self.rule.start)
            self._simulation.at(now + self.rule.start, self._came)

    def _came(self, now: float) -> None:
        self._coming -= 1

    def _end(self, count: int, now: float) -> None:
        for _ in range(min(max(count, 0), len(self._simulation.up) - self.rule.least)):
            self._simulation.drain(self._simulation.up[-1], now)
