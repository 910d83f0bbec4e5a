"""Clients that ask again when they are answered, in simulated time: `python -m jitney.tools.bench.simulate_clients --help`.

So many clients ask one worker with zero delay. A batch reaches the worker `--gap-ms` after it left, takes it `--host-ms` and
t0 + a * rows; then its answers are sent one after the other, `--answer-ms` each, and each client asks again after a time of
`--think-ms` on the average. Nothing sleeps: the production `Batcher` and `ClosedLoop` are asked at each event of a simulated
clock. Each number of clients is told twice: as if nothing ever waited for clients, and as the server does it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import count

import numpy as np

from ...core.model_config import Batching
from ...server.batching.closed_loop import ClosedLoop
from ...server.batching.queue import Batch, Batcher, Item
from .simulate import SimulatedServer


class Clients:
    """`answer` and `think` in seconds: one answer's sending, and the mean time until its client asks again."""

    def __init__(
        self, server: SimulatedServer, clients: int, answer: float, think: float, waits: bool, seed: int = 1
    ) -> None:
        self._server, self._answer, self._think, self._waits = server, answer, think, waits
        self._dice = np.random.default_rng(seed)
        self._queue, self._loop = Batcher(Batching(enabled=True), server.max_rows), ClosedLoop()
        self._numbers, self._events = count(), list[tuple[float, int, Batch | None]]()
        self._idle = True
        self.now, self.latencies, self.sizes = 0.0, list[float](), list[int]()
        for _ in range(clients):
            self._at(float(self._dice.exponential(server.t0)))

    def run(self, requests: int) -> None:
        """Until so many requests have been answered."""
        while len(self.latencies) < requests:
            self.now, number, batch = heappop(self._events)
            if batch is not None:
                self._over(batch)
            elif number:
                self._queue.submit(Item(number, 1, None, self.now))
                self._loop.arrived(self.now, 1)
            self._poll()

    def _at(self, instant: float, batch: Batch | None = None) -> None:
        """A client asks then, or a batch is over."""
        heappush(self._events, (instant, next(self._numbers) + 1, batch))

    def _over(self, batch: Batch) -> None:
        self._idle = True
        self._loop.answered(self.now, batch.rows, self._time(batch.rows))
        for place, item in enumerate(batch.items, 1):
            answered = self.now + place * self._answer
            self.latencies.append(answered - item.arrived)
            self._at(answered + float(self._dice.exponential(self._think)))

    def _time(self, rows: int) -> float:
        return self._server.host + self._server.t0 + self._server.a * rows

    def _poll(self) -> None:
        if not self._idle or not len(self._queue):
            return
        until = self._loop.waits_until(self.now) if self._waits and not self._queue.fills_batch else self.now
        if until > self.now:
            heappush(self._events, (until, 0, None))
            return
        for batch in self._queue.poll(self.now, 1).batches:
            self._idle = False
            self.sizes.append(batch.rows)
            self._at(self.now + self._server.gap + self._time(batch.rows), batch)


def table(server: SimulatedServer, clients: Sequence[int], answer: float, think: float, requests: int) -> Iterator[str]:
    """Two lines for each number of clients."""
    yield f"{'clients':>8} {'':<10} {'req/s':>8} {'mean ms':>9} {'p99 ms':>9} {'mean batch':>11}"
    for number in clients:
        for waits in (False, True):
            simulated = Clients(server, number, answer, think, waits)
            simulated.run(requests)
            late = 1000 * np.array(simulated.latencies[requests // 5 :])  # what was learned by then
            figures = f"{requests / simulated.now:>8.0f} {late.mean():>9.2f} {np.percentile(late, 99):>9.2f}"
            yield f"{number:>8} {'waits' if waits else 'at once':<10} {figures} {np.mean(simulated.sizes):>11.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jitney.tools.bench.simulate_clients", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 48])
    add("--requests", type=int, default=20_000, help="for each number of clients")
    add("--max-batch", type=int, default=32)
    for name, usual in (("t0", 3.0), ("a", 0.2), ("host", 0.6), ("gap", 0.55), ("answer", 0.03), ("think", 0.2)):
        add(f"--{name}-ms", type=float, default=usual)
    options = parser.parse_args(argv)
    times = [options.t0_ms, options.a_ms, options.host_ms, options.gap_ms, options.answer_ms, options.think_ms]
    if min(*options.clients, options.requests, options.max_batch) < 1 or min(times) < 0:
        parser.error("--clients, --requests and --max-batch must be at least 1, times at least 0")
    t0, a, host, gap, answer, think = (time / 1000 for time in times)
    server = SimulatedServer(options.max_batch, t0, a, host=host, gap=gap)
    for line in table(server, options.clients, answer, think, options.requests):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
