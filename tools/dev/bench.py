"""How close the server comes to the bare model: `make bench`.

For each workload, in interleaved rounds: the in-process ceiling (`ceiling`: decode and forward at full batch on all cores, no
server), then the server at each number of connections, loaded by a client of its own process on the same cores. Machines are
noisy: quote the ratio to the ceiling of the same round, not the rate. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...server.process.cores import usable_cores
from ..bench import load
from ..bench.served import ServedProcess, serving
from . import bench_models
from .bench_models import Workload
from .ceiling import Ceiling, best

CONNECTIONS = (1, 8, 32, 64, 128)


Seen = Callable[[float], float | None]
Watch = Callable[[], AbstractContextManager[Seen]]
"""Watches something while a measurement runs; what it gives tells what it saw in the last so many seconds."""


@dataclass
class Row:
    """One workload at one number of connections, a value for each round. `busy`: shares of time, where a GPU is watched."""

    workload: str
    connections: int
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        rate, p50, p99, batch, ratio = (
            statistics.median(values) for values in (self.rates, self.p50, self.p99, self.batches, self.ratios)
        )
        return [
            self.workload,
            str(self.connections),
            f"{rate:,.0f}",
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"{batch:.1f}",
            f"{ratio:.2f}",
        ]

    def line(self) -> str:
        return "| " + " | ".join(self.cells()) + " |"


HEADER = "| workload | connections | req/s | p50 ms | p99 ms | mean batch | of the ceiling |\n|---|---|---|---|---|---|---|"


def _mean_batch(server: ServedProcess, model: str, before: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    """Rows per execution since `before`, and the counters now, as the server reports them."""
    stats = server.get_json(f"/v2/models/{model}/stats")["model_stats"][0]
    now = (stats["inference_count"], stats["execution_count"])
    return (now[0] - before[0]) / max(1, now[1] - before[1]), now


@contextmanager
def _unwatched() -> Iterator[Seen]:
    yield lambda seconds: None


def run_round(
    workload: Workload,
    server: ServedProcess,
    ceiling: float,
    rows: dict[int, Row],
    seconds: float,
    watch: Watch = _unwatched,
) -> None:
    """One round of a workload at every number of connections. `ceiling` in requests/s; `watch` sees each measurement."""
    counters = _mean_batch(server, workload.model, (0, 0))[1]
    for connections, row in rows.items():
        turnaround = connections / ceiling  # what the last of so many requests waits for at best
        with watch() as busy:
            result = load.measure(
                server.inference + workload.path,
                workload.body,
                workload.headers,
                connections,
                seconds=max(seconds, 4 * turnaround),
                warmup=max(min(1.0, seconds / 2), 1.5 * turnaround),
            )
            share = busy(result.seconds)
        bad = {status: count for status, count in result.statuses.items() if status != "200"}
        if bad or not result.requests:
            raise RuntimeError(
                f"{workload.name} at {connections} connections: answers other than 200: {bad or 'none at all'}"
            )
        mean, counters = _mean_batch(server, workload.model, counters)
        row.rates.append(result.rate)
        row.p50.append(result.p50)
        row.p99.append(result.p99)
        row.batches.append(mean)
        row.ratios.append(result.rate / ceiling)
        row.busy += [] if share is None else [share]


def bench(workloads: Sequence[Workload], repository: Path, connections: Sequence[int], seconds: float, rounds: int) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {usable_cores()} cores, Python {platform.python_version()}",
        flush=True,
    )
    for workload in workloads:
        rows = {c: Row(workload.name, c) for c in connections}
        ceilings: list[Ceiling] = []
        with serving(repository, flags=["--load-model", workload.model]) as server:
            for number in range(rounds):
                print(f"{workload.name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                ceilings.append(best(repository, workload.model, workload.body, workload.batch, seconds, workload.raw))
                run_round(workload, server, ceilings[-1].rate, rows, seconds)
        _print(workload, ceilings, rows)


def _print(workload: Workload, ceilings: Sequence[Ceiling], rows: dict[int, Row]) -> None:
    rate = statistics.median(ceiling.rate for ceiling in ceilings)
    single = statistics.median(ceiling.single_ms for ceiling in ceilings)
    print(f"\n{workload.name}: {workload.what}.")
    print(
        f"Ceiling {rate:,.0f}/s ({ceilings[-1].arrangement}, batch {workload.batch}); a batch of one takes {single:.2f} ms.\n"
    )
    print(HEADER)
    for row in rows.values():
        print(row.line())
    if 1 in rows:
        print(f"\nA lone request costs {statistics.median(rows[1].p50) - single:.2f} ms over the bare model.")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.tools.dev.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", default="", help="comma-separated; default all: " + ",".join(bench_models.NAMES))
    parser.add_argument("--connections", default=",".join(map(str, CONNECTIONS)))
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything works")
    options = parser.parse_args(argv)
    seconds, rounds = (1.5, 1) if options.quick else (options.seconds, options.rounds)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    with tempfile.TemporaryDirectory(prefix="jitney-bench-") as folder:
        repository = Path(folder) / "models"
        print("building the models", file=sys.stderr, flush=True)
        workloads = bench_models.build(repository, [name for name in options.workloads.split(",") if name])
        bench(workloads, repository, [int(c) for c in options.connections.split(",")], seconds, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
