"""Several replicas in simulated time, each the production `Batcher` with its workers (`tools.dev.scale_report`, docs/scale.md).

Requests arrive at one of `routers` balancers, which sends each to a replica (`routing`). Replicas fail, freeze, are slow, come
and go (`scaling`). A request that was at a replica that died is sent to another one when the balancer knows. With one replica
that stays, this is `simulate.simulate`, to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from math import inf

import numpy as np

from ...server.batching.queue import Item
from .policies import make_queue
from .routing import Router
from .simulate import Polled, SimulatedServer, Workers
from .traces import Times


@dataclass(frozen=True)
class Cluster:
    """`replicas` alike, but for those that `slow` names, which take that many times as long.

    failures   (second, replica, seconds until balancers know): 0 for one that is killed, whose connections break; it is gone then
    restart    seconds from a failure to the replica that takes its place
    """

    server: SimulatedServer
    replicas: int = 1
    policy: str = "zero"
    rule: str = "least_rows"
    routers: int = 1
    slow: dict[int, float] = field(default_factory=dict)
    failures: tuple[tuple[float, int, float], ...] = ()
    restart: float = inf

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.routers < 1:
            raise ValueError(f"expected 1 replica and 1 router at least, got {self.replicas} and {self.routers}")
        for number in (*self.slow, *(replica for _, replica, _ in self.failures)):
            if not 0 <= number < self.replicas:
                raise ValueError(f"replicas are 0 to {self.replicas - 1}, got {number}")


@dataclass(frozen=True)
class Outcome:
    """Latencies in seconds in the order of arrival. `repeated`: requests that were sent again; `replica_seconds`: what was paid
    for, from the order to start a replica to its end; `most`: replicas at once."""

    latencies: Times
    batches: int
    busy: float
    repeated: int
    replica_seconds: float
    most: int

    @property
    def mean(self) -> float:
        return float(self.latencies.mean())

    @property
    def p99(self) -> float:
        return float(np.percentile(self.latencies, 99))

    @property
    def mean_batch(self) -> float:
        return (len(self.latencies) + self.repeated) / self.batches


class Replica:
    """One server. `down`: it answers nothing any more; `begun`, `ended`: when it was ordered, and when it was gone."""

    def __init__(self, server: SimulatedServer, policy: str, begun: float) -> None:
        self.server, self.begun, self.ended = server, begun, inf
        self.queue, self.workers = make_queue(policy, server.max_rows), Workers(server)
        self.waiting, self.running, self.down = 0, 0, False
        self.items: dict[int, Item] = {}  # that it has, by request
        self.queued = 0.0  # seconds that its requests have waited, and how many, since somebody asked
        self.left = 0

    @property
    def t0(self) -> float:
        return self.server.t0

    def would_end(self, now: float) -> float:
        """When a request that came now would be answered, if none came after it."""
        ahead, rows = divmod(self.waiting, self.server.max_rows)
        free = now if self.workers.idle else self.workers.next_end()
        each = self.server.host + self.server.t0 + self.server.a * self.server.max_rows
        return free + ahead * each / self.server.workers + self.server.host + self.server.t0 + self.server.a * (rows + 1)


class Simulation:
    """One run. Events: a batch's end, a queue's instant, a failure, what a balancer gets to know, a tick of the autoscaler."""

    def __init__(self, cluster: Cluster, arrivals: Sequence[float], seed: int) -> None:
        self.cluster, self.rng = cluster, np.random.default_rng(seed)
        self.replicas = [self._server(number, 0.0) for number in range(cluster.replicas)]
        self.up = list(range(cluster.replicas))
        self.routers = [Router(cluster.rule, self.replicas, self.rng) for _ in range(cluster.routers)]
        self.latencies = np.full(len(arrivals), np.nan)
        self.repeated, self.batches, self.most, self.answered = 0, 0, cluster.replicas, 0
        self.coming = 0  # replicas that were ordered and are not ready yet
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number, self._touched = count(), dict[int, None]()
        self._router_of = self.rng.integers(cluster.routers, size=len(arrivals)) if cluster.routers > 1 else None
        self._wake = dict.fromkeys(range(cluster.replicas), inf)
        self._times, self._sent = [*arrivals, inf], 0
        for second, replica, known in cluster.failures:
            self.at(second, lambda now, replica=replica, known=known: self._fail(replica, now, known))  # type: ignore[misc]

    def at(self, when: float, what: Callable[[float], None]) -> None:
        heappush(self._events, (when, next(self._number), what))

    def run(self) -> None:
        total = len(self.latencies)
        while self.answered < total:
            now = min(self._times[self._sent], self._events[0][0] if self._events else inf)
            while self._events and self._events[0][0] <= now:
                heappop(self._events)[2](now)
            while self._times[self._sent] <= now:
                self.route(self._sent, now, now)
                self._sent += 1
            touched, self._touched = self._touched, {}
            for number in touched:
                self._poll(number, now)

    def route(self, request: int, arrived: float, now: float) -> None:
        """Sends a request to a replica that its balancer chooses; where none is up, it waits until one is."""
        router = self.routers[0 if self._router_of is None else self._router_of[request]]
        if not self.up:
            if not self.coming:
                raise RuntimeError(
                    f"{len(self.latencies) - self.answered} requests can never be answered: no replica is left"
                )
            self.at(now + 0.01, lambda later: self.route(request, arrived, later))
            return
        number = router.choose(now)
        router.rows[number] += 1
        replica = self.replicas[number]
        item = Item(request, 1, None, arrived)
        replica.items[request] = item
        if not replica.down:
            replica.queue.submit(item)
            replica.waiting += 1
            self._touched[number] = None

    def add(self, now: float, ready: float, number: int | None = None) -> None:
        """Orders a replica that is ready at `ready`, in the place of another one or beside them."""
        if number is None:
            number = len(self.replicas)
            self.replicas.append(self._server(number, now))
            self._wake[number] = inf
            for router in self.routers:
                router.rows = np.append(router.rows, 0)
        else:
            self.replicas[number] = self._server(number, now)
            self._wake[number] = inf
        self.coming += 1
        self.at(ready, lambda then: self._ready(number, then))

    def drain(self, number: int, now: float) -> None:
        """No more requests for this replica; it ends with the last that it has."""
        self.up.remove(number)
        self._tell()
        if not self.replicas[number].items:
            self.replicas[number].ended = now

    # Events

    def _poll(self, number: int, now: float) -> None:
        replica = self.replicas[number]
        if replica.down:
            return
        for batch, end in (step := Polled(replica.queue, replica.workers, now)):
            requests = [item.payload for item in batch.items]
            replica.waiting -= batch.rows
            replica.running += batch.rows
            replica.queued += sum(now - item.arrived for item in batch.items)
            replica.left += len(requests)
            self.batches += 1
            self.at(end, lambda then, replica=replica, requests=requests: self._end(number, replica, requests, then))  # type: ignore[misc]
        if step.wake_at not in (inf, self._wake[number]):
            self.at(step.wake_at, lambda then: self._touched.__setitem__(number, None))
        self._wake[number] = step.wake_at

    def _end(self, number: int, replica: Replica, requests: list[int], now: float) -> None:
        if replica.down:
            return
        replica.workers.finish(now)
        replica.running -= len(requests)
        for request in requests:
            self.latencies[request] = now - replica.items.pop(request).arrived
            self._forget(request, number)
        self.answered += len(requests)
        self._touched[number] = None
        if number not in self.up and not replica.items and replica.ended == inf:
            replica.ended = now

    def _fail(self, number: int, now: float, known: float) -> None:
        replica = self.replicas[number]
        replica.down, replica.ended = True, now
        self.at(now + known, lambda then: self._notice(number, replica, then))

    def _notice(self, number: int, replica: Replica, now: float) -> None:
        if number in self.up:
            self.up.remove(number)
        self._tell()
        lost, replica.items = replica.items, {}
        for request in lost:
            self._forget(request, number)
        self.repeated += len(lost)
        if self.cluster.restart < inf:
            self.add(now, now + self.cluster.restart, number)
        for request, item in lost.items():
            self.route(request, item.arrived, now)

    def _ready(self, number: int, now: float) -> None:
        self.coming -= 1
        self.up.append(number)
        self.most = max(self.most, len(self.up))
        self._tell()

    def _forget(self, request: int, number: int) -> None:
        self.routers[0 if self._router_of is None else self._router_of[request]].rows[number] -= 1

    def _tell(self) -> None:
        for router in self.routers:
            router.set_up(self.up)

    def _server(self, number: int, now: float) -> Replica:
        factor, server = self.cluster.slow.get(number, 1.0), self.cluster.server
        made = (
            replace(server, t0=server.t0 * factor, a=server.a * factor, host=server.host * factor) if factor != 1 else server
        )
        return Replica(made, self.cluster.policy, now)


def simulate_replicas(
    cluster: Cluster, arrivals: Sequence[float], seed: int = 1, prepare: Callable[[Simulation], None] | None = None
) -> Outcome:
    """Runs all arrivals (seconds, ascending) until every one is answered; `prepare` may add events (`scaling.Autoscaler`)."""
    simulation = Simulation(cluster, arrivals, seed)
    if prepare is not None:
        prepare(simulation)
    simulation.run()
    replicas, first = simulation.replicas, arrivals[0]
    last = max(replica.workers.last for replica in replicas if not replica.down)
    paid = sum(min(replica.ended, last) - replica.begun for replica in replicas)
    there = sum(min(replica.ended, last) - max(replica.begun, first) for replica in replicas)
    busy = sum(replica.workers.work for replica in replicas) / (cluster.server.device_count * there)
    return Outcome(simulation.latencies, simulation.batches, busy, simulation.repeated, paid, simulation.most)
