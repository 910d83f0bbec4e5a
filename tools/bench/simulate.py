"""Compares batch policies in simulated time: `python -m jitney.tools.bench.simulate --help`.

Requests arrive by a trace (`traces`), wait in the production `Batcher` (`policies`), and run on workers. A batch takes its
worker `host` seconds and then its device t0 + a * rows; a device runs one batch at a time. Nothing sleeps: the same object that
decides in the server is asked at each event of a simulated clock. `--report DIR` writes tables and plots instead.

With `--gap-ms` a batch reaches its worker that much later than it left, so a worker waits between two batches; `--in-flight 2`
sends it full batches while it runs another, as the parameter `max_in_flight` does, and `--foresees` any batch so much before the
present one ends as it is on its way, as the server does where a model's times can be told.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

import numpy as np

from ...server.batching.queue import Batch, Item, Reason
from .policies import Queue, make_queue
from .traces import TRACES, Times

POLICIES = ("zero", "delay:5", "ts:10", "ts:100")


@dataclass(frozen=True)
class SimulatedServer:
    """`workers` on `devices` in turn (0 devices: each worker has its own) run batches of at most `max_rows` rows.

    A batch reaches its worker after `gap` seconds, takes `host` seconds of it only, then t0 + a * rows seconds of the device too.
    A worker holds up to `in_flight` batches; those beyond the first are full when they are sent. With `foresees` the next batch,
    full or not, leaves `gap` seconds before the only one that its worker holds is over.
    """

    max_rows: int
    t0: float
    a: float
    workers: int = 1
    devices: int = 0
    host: float = 0.0
    gap: float = 0.0
    in_flight: int = 1
    foresees: bool = False

    @property
    def device_count(self) -> int:
        return min(self.devices or self.workers, self.workers)

    @property
    def capacity(self) -> float:
        """Requests per second with every batch full."""
        device = self.t0 + self.a * self.max_rows
        waits = self.gap if self.in_flight == 1 and not self.foresees else 0.0
        return self.max_rows * min(self.device_count / device, self.workers / (waits + self.host + device))


@dataclass(frozen=True)
class Result:
    """Latencies in seconds, in the order of arrival; the share of device time that was busy.

    sizes   batches by their rows
    """

    latencies: Times
    batches: int
    busy: float
    reasons: dict[Reason, int]
    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return float(self.latencies.mean())

    @property
    def p99(self) -> float:
        return float(np.percentile(self.latencies, 99))

    @property
    def mean_batch(self) -> float:
        return len(self.latencies) / self.batches


class Workers:
    """Which batches each worker holds, and until when each device is taken."""

    def __init__(self, server: SimulatedServer) -> None:
        self._server = server
        self._devices = [worker % server.device_count for worker in range(server.workers)]
        self._held = [deque[float]() for _ in self._devices]  # the ends of each worker's batches
        self._taken_until = [0.0] * server.device_count
        self._running: list[tuple[float, int]] = []  # (end, worker) of all batches
        self.idle, self.work, self.last = server.workers, 0.0, 0.0

    def next_end(self) -> float:
        return self._running[0][0] if self._running else inf

    def ahead(self) -> int:
        """Full batches that could be sent to busy workers: none while one is idle."""
        return 0 if self.idle else self._server.in_flight * self._server.workers - len(self._running)

    def _opens(self, worker: int) -> float:
        """When the next batch may leave for a busy worker; inf = not before this one is over."""
        held = self._held[worker]
        return held[0] - self._server.gap if self._server.foresees and len(held) == 1 else inf

    def ending(self, now: float) -> int:
        """Busy workers for which the next batch may leave."""
        return sum(self._opens(worker) <= now for worker in range(self._server.workers)) if self._server.foresees else 0

    def next_opening(self, now: float) -> float:
        """When that holds for another one."""
        if not self._server.foresees:
            return inf
        return min((at for worker in range(self._server.workers) if (at := self._opens(worker)) > now), default=inf)

    def run(self, rows: int, now: float) -> float:
        """Gives a batch to an idle worker, else ahead to a busy one; when it ends."""
        worker = self._idle_one() if self.idle else self._next_one(now)
        held, device = self._held[worker], self._devices[worker]
        seconds = self._server.t0 + self._server.a * rows
        begun = max([now + self._server.gap, *held])
        end = max(begun + self._server.host, self._taken_until[device]) + seconds
        self._taken_until[device] = end
        self.idle -= not held
        held.append(end)
        heappush(self._running, (end, worker))
        self.work, self.last = self.work + seconds, max(self.last, end)
        return end

    def _idle_one(self) -> int:
        """The one whose device is soonest free."""
        idle = (worker for worker, held in enumerate(self._held) if not held)
        return min(idle, key=lambda worker: (self._taken_until[self._devices[worker]], self._devices[worker]))

    def _next_one(self, now: float) -> int:
        """The busy one that comes to it first (`server.workers.roster.Roster.take_ahead`)."""
        if ending := [worker for worker in range(self._server.workers) if self._opens(worker) <= now]:
            return min(ending, key=self._opens)
        free = (worker for worker, held in enumerate(self._held) if len(held) < self._server.in_flight)
        return min(free, key=lambda worker: (len(self._held[worker]), self._held[worker][-1]))

    def finish(self, now: float) -> None:
        while self._running and self._running[0][0] <= now:
            held = self._held[heappop(self._running)[1]]
            held.popleft()
            self.idle += not held


class Polled:
    """The batches that leave now, each with its end: what idle workers take, then what busy ones take ahead.

    `wake_at`: when the queue wants to be asked again, once all have been looked at; inf = when something happens.
    """

    def __init__(self, queue: Queue, workers: Workers, now: float) -> None:
        self._queue, self._workers, self._now = queue, workers, now
        self.wake_at = inf

    def __iter__(self) -> Iterator[tuple[Batch, float]]:
        while True:
            free = self._workers.idle + self._workers.ending(self._now)
            step = self._queue.poll(self._now, free, 0 if free else self._workers.ahead())
            self.wake_at = inf if step.wake_at is None else step.wake_at
            for batch in step.batches:
                yield batch, self._workers.run(batch.rows, self._now)
            if not step.batches or not self._workers.ahead():
                return


def simulate(queue: Queue, arrivals: Sequence[float], server: SimulatedServer) -> Result:
    """Runs all arrivals (seconds, ascending) through the queue until every one is answered."""
    latencies = np.empty(len(arrivals))
    reasons, sizes = dict.fromkeys(Reason, 0), dict[int, int]()
    workers, sent = Workers(server), 0
    wake_at = inf
    times = [*arrivals, inf]
    now = -inf
    while (now := min(times[sent], workers.next_end(), workers.next_opening(now), wake_at)) < inf:
        workers.finish(now)
        while times[sent] <= now:
            queue.submit(Item(sent, 1, None, now))
            sent += 1
        for batch, end in (step := Polled(queue, workers, now)):
            for item in batch.items:
                latencies[item.payload] = end - item.arrived
            reasons[batch.reason] += 1
            sizes[batch.rows] = sizes.get(batch.rows, 0) + 1
        wake_at = step.wake_at
    span = workers.last - arrivals[0]
    return Result(latencies, sum(sizes.values()), workers.work / (server.device_count * span), reasons, sizes)


def theory(rate: float, server: SimulatedServer) -> float | None:
    """Bound of the mean latency of zero delay with one worker, Poisson arrivals and no limit to a batch, in seconds.

    Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching" (arXiv 1912.06322). None where the load
    is above what such a server can take, or there are several workers.
    """
    a, t0, rho = server.a, server.t0 + server.host + server.gap, rate * server.a
    if server.workers != 1 or rho >= 1:
        return None
    first = (a + t0) / (2 * (1 - rho)) * (1 + 2 * rate * t0 + (1 - rate * t0) / (1 + rho))
    second = 1.5 * t0 / (1 - rho) + a / 2 * (rho + 2) / (1 - rho**2)
    return min(first, second)


# Command


def table(
    trace: str, rates: Sequence[float], policies: Sequence[str], count: int, server: SimulatedServer, seed: int
) -> Iterator[str]:
    """One line for each rate and policy."""
    yield f"{'req/s':>8} {'policy':<12} {'mean ms':>9} {'p99 ms':>9} {'busy':>6} {'mean batch':>10}  batches left by"
    for rate in rates:
        arrivals = TRACES[trace](rate, count, np.random.default_rng(seed)).tolist()
        for policy in policies:
            result = simulate(make_queue(policy, server.max_rows), arrivals, server)
            why = ", ".join(f"{reason} {n / result.batches:.0%}" for reason, n in result.reasons.items() if n)
            times = f"{result.mean * 1000:>9.2f} {result.p99 * 1000:>9.2f}"
            yield f"{rate:>8g} {policy:<12} {times} {result.busy:>6.0%} {result.mean_batch:>10.2f}  {why}"
        if trace == "poisson" and (bound := theory(rate, server)) is not None:
            yield f"{rate:>8g} {'theory':<12} {bound * 1000:>9.2f}  (zero delay, batches without a limit)"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _not_negative(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else _positive(text)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected 1 to 1000000, got {text}")
    return value


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The options that say what is simulated."""
    made = argparse.ArgumentParser(prog=program, description=description)
    add = made.add_argument
    add("--trace", choices=sorted(TRACES), help="how requests arrive")
    add("--policies", nargs="+", default=list(POLICIES), help="zero, alone, delay:MS, delay:MS:SIZES, ts:MS")
    add("--requests", type=_count, default=20_000, help="requests per rate and policy, at most a million")
    add("--max-batch", type=_count, default=32, help="rows that a batch may hold")
    add("--t0-ms", type=_positive, default=3.0, help="a batch takes its device t0 + a * rows: t0")
    add("--a-ms", type=_positive, default=0.2, help="a batch takes its device t0 + a * rows: a")
    add("--host-ms", type=_not_negative, default=0.0, help="time of the worker alone before that, for each batch")
    add("--gap-ms", type=_not_negative, default=0.0, help="time until a batch that left has reached its worker")
    add("--in-flight", type=_count, default=1, help="batches that a worker may hold (max_in_flight)")
    add("--foresees", action="store_true", help="the next batch leaves --gap-ms before the present one is over")
    add("--workers", type=_count, default=1)
    add("--devices", type=_count, help="GPUs that the workers share, in turn (one for each worker)")
    add("--seed", type=int, default=1)
    return made


def server_of(made: argparse.ArgumentParser, args: argparse.Namespace) -> SimulatedServer:
    """The server that the options describe; ends the program where they do not fit together."""
    server = SimulatedServer(
        args.max_batch, args.t0_ms / 1000, args.a_ms / 1000, args.workers, args.devices or 0, args.host_ms / 1000,
        args.gap_ms / 1000, args.in_flight, args.foresees,
    )  # fmt: skip
    try:
        if server.devices > server.workers:
            raise ValueError(f"{server.devices} devices need as many workers at least, got {server.workers}")
        for policy in args.policies:
            make_queue(policy, server.max_rows)
    except ValueError as error:
        made.error(str(error))
    return server


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("jitney.tools.bench.simulate", "Compares batch policies in simulated time.")
    made.add_argument("--rates", type=_positive, nargs="+", help="requests per second (50 200 1000 3000)")
    args = made.parse_args(argv)
    server = server_of(made, args)
    trace = args.trace or "poisson"
    print(f"{trace}, {args.requests} requests, {describe(server)}: at most {server.capacity:.0f} requests/s")
    for line in table(trace, args.rates or [50.0, 200.0, 1000.0, 3000.0], args.policies, args.requests, server, args.seed):
        print(line, flush=True)
    return 0


def describe(server: SimulatedServer) -> str:
    """The server in words."""
    host = f"{server.host * 1000:g} ms + " if server.host else ""
    gap = f", {server.gap * 1000:g} ms after it left" if server.gap else ""
    ahead = f", {server.in_flight} in flight" if server.in_flight > 1 else ""
    ahead += ", ends foreseen" if server.foresees else ""
    batch = f"a batch of at most {server.max_rows} takes {host}{server.t0 * 1000:g} ms + {server.a * 1000:g} ms per row{gap}"
    return f"{server.workers} worker(s) on {server.device_count} device(s){ahead}, {batch}"


if __name__ == "__main__":
    sys.exit(main())
