"""Compares batch policies in simulated time: `python -m jitney.tools.simulate --help`.

Requests arrive by a trace (Poisson, bursts, diurnal), wait in the production `Batcher`, and run on workers whose batch time is
t0 + a * rows. Nothing sleeps: the same object that decides in the server is asked at each event of a simulated clock.

    policies   zero        no delay: a worker that is idle takes what waits
               delay:MS    wait until the oldest is MS old, or the batch is full
               ts:MS       TorchServe: the clock starts when a worker takes the first request; one worker collects at a time
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..server.batching.queue import Batch, Batcher, Item, Reason, Step
from ..server.repository.config import Batching

Times = npt.NDArray[np.float64]


class Queue(Protocol):
    """What the simulation needs of a batcher."""

    def submit(self, item: Item) -> None: ...
    def poll(self, now: float, idle: int) -> Step: ...


class TorchServeQueue:
    """TorchServe's `pollBatch`, for comparison only.

    A worker blocks for a first request, then collects until `delay` seconds have passed since it took that one. Without a
    delay it takes one more at most. The other idle workers wait until it is done.
    """

    def __init__(self, max_rows: int, delay: float) -> None:
        self._max_rows, self._delay = max_rows, delay
        self._waiting: deque[Item] = deque()
        self._collected: list[Item] = []
        self._ends = inf

    def submit(self, item: Item) -> None:
        self._waiting.append(item)

    def poll(self, now: float, idle: int) -> Step:
        batches: list[Batch] = []
        most = self._max_rows if self._delay > 0 else min(2, self._max_rows)
        while len(batches) < idle and (self._collected or self._waiting):
            if not self._collected:
                self._collected, self._ends = [self._waiting.popleft()], now + self._delay
            while self._waiting and len(self._collected) < most:
                self._collected.append(self._waiting.popleft())
            if len(self._collected) < most and now < self._ends:
                break
            full = len(self._collected) >= self._max_rows
            batches.append(Batch(self._collected, len(self._collected), Reason.FULL if full else Reason.DELAY))
            self._collected, self._ends = [], inf
        return Step(batches, [], self._ends if self._collected else None)


@dataclass(frozen=True)
class Server:
    """`workers` run batches of at most `max_rows` rows, each taking t0 + a * rows seconds."""

    max_rows: int
    t0: float
    a: float
    workers: int = 1

    @property
    def capacity(self) -> float:
        """Requests per second with every batch full."""
        return self.workers * self.max_rows / (self.t0 + self.a * self.max_rows)


@dataclass(frozen=True)
class Result:
    """Latencies in seconds, in the order of arrival; the mean batch; the share of worker time that was busy."""

    latencies: Times
    batches: int
    busy: float
    reasons: dict[Reason, int]

    @property
    def mean(self) -> float:
        return float(self.latencies.mean())

    @property
    def p99(self) -> float:
        return float(np.percentile(self.latencies, 99))

    @property
    def mean_batch(self) -> float:
        return len(self.latencies) / self.batches


def simulate(queue: Queue, arrivals: Sequence[float], server: Server) -> Result:
    """Runs all arrivals (seconds, ascending) through the queue until every one is answered."""
    latencies = np.empty(len(arrivals))
    reasons = dict.fromkeys(Reason, 0)
    running: list[float] = []  # ends of the batches being executed
    idle, batches, work, last, sent = server.workers, 0, 0.0, 0.0, 0
    wake_at: float | None = None
    times = [*arrivals, inf]
    while sent < len(arrivals) or running or wake_at is not None:
        now = min(times[sent], running[0] if running else inf, inf if wake_at is None else wake_at)
        while running and running[0] <= now:
            heappop(running)
            idle += 1
        if times[sent] <= now:
            queue.submit(Item(sent, 1, None, now))
            sent += 1
        step = queue.poll(now, idle)
        for batch in step.batches:
            seconds = server.t0 + server.a * batch.rows
            end = now + seconds
            heappush(running, end)
            for item in batch.items:
                latencies[item.payload] = end - item.arrived
            idle, batches, work, last = idle - 1, batches + 1, work + seconds, max(last, end)
            reasons[batch.reason] += 1
        wake_at = step.wake_at
    return Result(latencies, batches, work / (server.workers * (last - arrivals[0])), reasons)


# Traces


def poisson(rate: float, count: int, rng: np.random.Generator) -> Times:
    return np.cumsum(rng.exponential(1 / rate, count))


def bursts(rate: float, count: int, rng: np.random.Generator, size: int = 16, spread: float = 0.002) -> Times:
    """Groups of `size` requests on average, each spread over `spread` seconds; `rate` is the mean over all."""
    starts = np.cumsum(rng.exponential(size / rate, count))
    members = np.repeat(starts, rng.geometric(1 / size, count))[:count]
    return np.sort(members + rng.uniform(0, spread, count))


def diurnal(rate: float, count: int, rng: np.random.Generator, period: float = 60.0, swing: float = 0.8) -> Times:
    """A rate that swings by `swing` around its mean, one day lasting `period` seconds."""
    kept = np.empty(0)
    start = 0.0
    while len(kept) < count:
        tries = start + np.cumsum(rng.exponential(1 / (rate * (1 + swing)), count))
        chance = (1 + swing * np.sin(2 * np.pi * tries / period)) / (1 + swing)
        kept, start = np.concatenate([kept, tries[rng.random(count) < chance]]), float(tries[-1])
    return kept[:count]


TRACES = {"poisson": poisson, "bursts": bursts, "diurnal": diurnal}


def theory(rate: float, server: Server) -> float | None:
    """Bound of the mean latency of zero delay with one worker, Poisson arrivals and no limit to a batch, in seconds.

    Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching" (arXiv 1912.06322). None where the load
    is above what such a server can take, or there are several workers.
    """
    a, t0, rho = server.a, server.t0, rate * server.a
    if server.workers != 1 or rho >= 1:
        return None
    first = (a + t0) / (2 * (1 - rho)) * (1 + 2 * rate * t0 + (1 - rate * t0) / (1 + rho))
    second = 1.5 * t0 / (1 - rho) + a / 2 * (rho + 2) / (1 - rho**2)
    return min(first, second)


# Command


def make_queue(policy: str, max_rows: int) -> Queue:
    """The queue that a policy's name means; ValueError for another name."""
    kind, _, value = policy.partition(":")
    if policy == "zero":
        return Batcher(Batching(enabled=True), max_rows)
    try:
        delay_ms = float(value)
    except ValueError:
        delay_ms = -1.0
    if kind not in ("delay", "ts") or not 0 <= delay_ms < inf:
        raise ValueError(f"a policy is zero, delay:MS or ts:MS, got '{policy}'")
    if kind == "ts":
        return TorchServeQueue(max_rows, delay_ms / 1000)
    return Batcher(Batching(enabled=True, max_queue_delay_us=round(delay_ms * 1000)), max_rows)


def table(
    trace: str, rates: Sequence[float], policies: Sequence[str], count: int, server: Server, seed: int
) -> Iterator[str]:
    """One line for each rate and policy."""
    yield f"{'req/s':>8} {'policy':<10} {'mean ms':>9} {'p99 ms':>9} {'busy':>6} {'mean batch':>10}  batches left by"
    for rate in rates:
        arrivals = TRACES[trace](rate, count, np.random.default_rng(seed)).tolist()
        for policy in policies:
            result = simulate(make_queue(policy, server.max_rows), arrivals, server)
            why = ", ".join(f"{reason} {n / result.batches:.0%}" for reason, n in result.reasons.items() if n)
            times = f"{result.mean * 1000:>9.2f} {result.p99 * 1000:>9.2f}"
            yield f"{rate:>8g} {policy:<10} {times} {result.busy:>6.0%} {result.mean_batch:>10.2f}  {why}"
        if trace == "poisson" and (bound := theory(rate, server)) is not None:
            yield f"{rate:>8g} {'theory':<10} {bound * 1000:>9.2f}  (zero delay, batches without a limit)"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected 1 to 1000000, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jitney.tools.simulate", description="Compares batch policies in simulated time.")
    parser.add_argument("--trace", choices=sorted(TRACES), default="poisson", help="how requests arrive")
    parser.add_argument(
        "--rates", type=_positive, nargs="+", default=[50.0, 200.0, 1000.0, 3000.0], help="requests per second"
    )
    parser.add_argument(
        "--policies", nargs="+", default=["zero", "delay:5", "ts:10", "ts:100"], help="zero, delay:MS, ts:MS"
    )
    parser.add_argument("--requests", type=_count, default=20_000, help="requests per rate and policy, at most a million")
    parser.add_argument("--max-batch", type=_count, default=32, help="rows that a batch may hold")
    parser.add_argument("--t0-ms", type=_positive, default=3.0, help="batch time is t0 + a * rows: t0")
    parser.add_argument("--a-ms", type=_positive, default=0.2, help="batch time is t0 + a * rows: a")
    parser.add_argument("--workers", type=_count, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    server = Server(args.max_batch, args.t0_ms / 1000, args.a_ms / 1000, args.workers)
    try:
        for policy in args.policies:
            make_queue(policy, server.max_rows)
    except ValueError as error:
        parser.error(str(error))
    print(
        f"{args.trace}, {args.requests} requests, {args.workers} worker(s), batch of at most {args.max_batch} takes", end=" "
    )
    print(f"{args.t0_ms:g} ms + {args.a_ms:g} ms per row: at most {server.capacity:.0f} requests/s")
    for line in table(args.trace, args.rates, args.policies, args.requests, server, args.seed):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
