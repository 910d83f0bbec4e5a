"""The figures of docs/scale.md: `python -m jitney.tools.dev.scale_report DIR [SECTION…]`.

Each section is a table in report.md, with the plots beside it. Nothing is measured: replicas are simulated (`bench.replicas`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import ceil, inf
from pathlib import Path

import numpy as np

from ..bench.plot import Panel, svg
from ..bench.policies import make_queue
from ..bench.replicas import Cluster, Outcome, simulate_replicas
from ..bench.routing import RULES
from ..bench.scaling import Autoscaler, Rule
from ..bench.simulate import SimulatedServer, describe, simulate
from ..bench.traces import TRACES, diurnal

#: docs/batching.md's device: at most 3,404 requests/s.
SMALL = SimulatedServer(max_rows=32, t0=0.003, a=0.0002)
#: A model 20 times as slow: at most 170 requests/s. A day of it can be simulated.
LARGE = SimulatedServer(max_rows=32, t0=0.060, a=0.004)
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DAY = 1200.0  # seconds of a simulated day
#: Signals and targets whose replicas are drawn over the day.
DRAWN = {("ongoing", 1.0), ("ongoing", 2.0), ("queue_time", 0.1), ("busy", 0.7)}

#: The highest load that is planned with: above it queues grow for longer than a simulation lasts.
MOST = 0.9

Lines = Iterator[str]


def arrivals(rate: float, count: int, seed: int, trace: str = "poisson") -> list[float]:
    times: list[float] = TRACES[trace](rate, count, np.random.default_rng(seed)).tolist()
    return times


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def times(outcome: Outcome) -> str:
    return f"{outcome.mean * 1000:.1f} / {outcome.p99 * 1000:.1f}"


def fill(folder: Path, count: int, seed: int) -> Lines:
    """The same requests over more and more replicas."""
    rows, filled = [], dict[str, list[tuple[float, float]]]()
    for load in (0.2, 0.5, 0.9):
        when = arrivals(load * SMALL.capacity, count, seed)
        for replicas in (1, 2, 4, 8):
            got = simulate_replicas(Cluster(SMALL, replicas, rule="round_robin"), when, seed)
            work = got.busy * replicas * (when[-1] - when[0]) / count
            filled.setdefault(f"{load * SMALL.capacity:,.0f} requests/s", []).append((float(replicas), got.mean_batch))
            cells = [
                f"{load * SMALL.capacity:,.0f}",
                str(replicas),
                f"{got.mean_batch:.2f}",
                f"{work * 1000:.2f}",
                times(got),
            ]
            rows.append([*cells, f"{got.busy:.0%}"])
    (folder / "fill.svg").write_text(svg([Panel("batch fill", "replicas", "rows in a batch", filled)]), encoding="utf-8")
    heads = [
        "requests/s in all",
        "replicas",
        "rows in a batch",
        "device ms for each request",
        "mean / p99, ms",
        "devices busy",
    ]
    yield from table(heads, rows)


def queues(folder: Path, count: int, seed: int) -> Lines:
    """One queue over several devices, or a replica for each."""
    rows = []
    for devices in (2, 4, 8):
        one = replace(SMALL, workers=devices, devices=devices)
        for load in (0.2, 0.5, 0.8):
            when = arrivals(load * one.capacity, count, seed)
            shared = simulate(make_queue("zero", one.max_rows), when, one)
            split = [
                simulate_replicas(Cluster(SMALL, devices, rule=rule), when, seed) for rule in ("round_robin", "least_rows")
            ]
            cells = [f"{shared.mean * 1000:.1f} / {shared.p99 * 1000:.1f}", *map(times, split)]
            rows.append([str(devices), f"{load:.0%}", *cells])
    yield from table(["devices", "load", "one queue", "a replica each, round_robin", "a replica each, least_rows"], rows)


def rules(folder: Path, count: int, seed: int) -> Lines:
    """Routing rules for replicas that are alike."""
    rows, panels = [], []
    for replicas in (2, 8, 32):
        series: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
        for load in LOADS if replicas == 8 else (0.2, 0.5, 0.8):
            when = arrivals(load * replicas * SMALL.capacity, count, seed)
            got = {rule: simulate_replicas(Cluster(SMALL, replicas, rule=rule), when, seed) for rule in RULES}
            for rule, outcome in got.items():
                series[rule].append((100 * load, outcome.mean * 1000))
            if load in (0.2, 0.5, 0.8):
                rows.append([str(replicas), f"{load:.0%}", *(times(outcome) for outcome in got.values())])
        if replicas == 8:
            panels.append(Panel("8 replicas, one balancer", "load, % of capacity", "mean latency, ms", series))
    spread: dict[str, list[tuple[float, float]]] = {rule: [] for rule in ("two_choices", "least_rows", "round_robin")}
    when = arrivals(0.8 * 8 * SMALL.capacity, count, seed)
    for routers in (1, 2, 4, 8, 16):
        for rule, points in spread.items():
            outcome = simulate_replicas(Cluster(SMALL, 8, rule=rule, routers=routers), when, seed)
            points.append((float(routers), outcome.mean * 1000))
    panels.append(Panel("8 replicas, 80 % load", "balancers", "mean latency, ms", spread))
    (folder / "rules.svg").write_text(svg(panels), encoding="utf-8")
    yield from table(["replicas", "load", *RULES], rows)


def slow(folder: Path, count: int, seed: int) -> Lines:
    """One of eight replicas takes three times as long."""
    rows = []
    for load in (0.3, 0.5, 0.7):
        when = arrivals(load * 8 * SMALL.capacity, count, seed)
        got = [simulate_replicas(Cluster(SMALL, 8, rule=rule, slow={0: 3.0}), when, seed) for rule in RULES]
        rows.append([f"{load:.0%}", *map(times, got)])
    yield from table(["load", *RULES], rows)


def failures(folder: Path, count: int, seed: int) -> Lines:
    """A replica of four is killed, or freezes and is found out after some seconds; another takes its place 20 s later."""
    rows = []
    for load in (0.5, 0.7, 0.8):
        when = arrivals(load * 4 * LARGE.capacity, count, seed)
        for what, known in (
            ("nothing", None),
            ("killed", 0.0),
            ("frozen, known after 2 s", 2.0),
            ("frozen, known after 5 s", 5.0),
        ):
            gone = () if known is None else ((when[-1] / 3, 0, known),)
            got = simulate_replicas(Cluster(LARGE, 4, failures=gone, restart=20.0), when, seed)
            longest = float(got.latencies.max())
            rows.append([f"{load:.0%}", what, times(got), f"{longest:.2f}", str(got.repeated)])
    yield from table(["load", "what happens", "mean / p99, ms", "longest, s", "sent again"], rows)


def signals(folder: Path, count: int, seed: int) -> Lines:
    """A day whose rate swings by 80 % around three replicas' capacity at most; replicas take 30 s to start."""
    rate = 3.0 * LARGE.capacity / 1.8
    when = diurnal(rate, round(rate * DAY), np.random.default_rng(seed), DAY).tolist()
    tried = [
        *(Rule("ongoing", target, most=12) for target in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)),
        *(Rule("waiting", target, most=12) for target in (0.25, 0.5, 1.0, 2.0)),
        *(Rule("queue_time", seconds, most=12) for seconds in (0.05, 0.1, 0.15, 0.2)),
        *(Rule("busy", share, most=12) for share in (0.5, 0.7, 0.9)),
    ]
    rows, series = [], dict[str, list[tuple[float, float]]]()
    for rule in tried:
        scaler = Autoscaler(rule)
        got = simulate_replicas(Cluster(LARGE, 3), when, seed, scaler)
        target = {"queue_time": f"{rule.target * 1000:g} ms", "busy": f"{rule.target:.0%}"}.get(rule.signal)
        target = target or f"{rule.target:g} batches"
        cells = [rule.signal, target, f"{got.replica_seconds / DAY:.2f}", str(got.most), times(got), f"{got.mean_batch:.1f}"]
        rows.append([*cells, f"{got.busy:.0%}"])
        if (rule.signal, rule.target) in DRAWN:
            series[f"{rule.signal} {target}"] = [(then, float(up)) for then, up in scaler.history[::4]]
    (folder / "signals.svg").write_text(svg([Panel("replicas over the day", "s", "replicas up", series)]), encoding="utf-8")
    heads = ["signal", "target", "replicas on average", "at most", "mean / p99, ms", "rows in a batch", "devices busy"]
    yield from table(heads, rows)


def fewest(
    server: SimulatedServer, rate: float, limit: float, rule: str, routers: int, count: int, seed: int
) -> tuple[int, Outcome]:
    """The fewest replicas, in steps of 1 or 2 %, whose p99 is at most `limit` seconds and whose load is at most MOST."""
    replicas = ceil(rate / (MOST * server.capacity))
    when = arrivals(rate, count, seed)
    while True:
        got = simulate_replicas(Cluster(server, replicas, rule=rule, routers=routers), when, seed)
        if got.p99 <= limit:
            return replicas, got
        replicas += max(1, replicas // 50)


def sizes(folder: Path, count: int, seed: int) -> Lines:
    """How many replicas for so many requests a second."""
    rows = []
    for rate, routers in ((1e4, 2), (1e5, 8), (1e6, 64)):
        least = ceil(rate / SMALL.capacity)
        for limit in (0.015, 0.020):
            cells = [f"{rate:,.0f}", f"{limit * 1000:g}", str(least)]
            for rule in ("round_robin", "least_rows"):
                replicas, got = fewest(SMALL, rate, limit, rule, routers, max(count, round(rate / 4)), seed)
                cells.append(f"{replicas} ({rate / replicas / SMALL.capacity:.0%}; {times(got)}; {got.mean_batch:.1f})")
            rows.append(cells)
    rate = 850 * SMALL.capacity  # a thousand at 85 %
    when, cells = arrivals(rate, max(count, round(rate / 20)), seed), [f"{rate:,.0f}", "–", "850"]
    for rule in ("round_robin", "least_rows"):
        got = simulate_replicas(Cluster(SMALL, 1000, rule=rule, routers=64), when, seed)
        cells.append(f"1000 (85%; {times(got)}; {got.mean_batch:.1f})")
    rows.append(cells)
    heads = [
        "requests/s",
        "p99 at most, ms",
        "at full batches",
        "round_robin (load; mean / p99; rows)",
        "least_rows, many balancers",
    ]
    yield from table(heads, rows)


SECTIONS: dict[str, Callable[[Path, int, int], Lines]] = {
    "fill": fill,
    "queues": queues,
    "rules": rules,
    "slow": slow,
    "failures": failures,
    "signals": signals,
    "sizes": sizes,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.scale_report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (all)")
    parser.add_argument("--requests", type=int, default=30_000, help="of each value; `signals` has a day's")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown or not 100 <= args.requests < inf:
        parser.error(f"sections are {', '.join(SECTIONS)}, got {unknown}" if unknown else "expected 100 requests at least")
    args.folder.mkdir(parents=True, exist_ok=True)
    page = [f"small: {describe(SMALL)}: at most {SMALL.capacity:,.0f} requests/s", ""]
    page += [f"large: {describe(LARGE)}: at most {LARGE.capacity:,.0f} requests/s", ""]
    for name in args.sections or SECTIONS:
        print(f"{name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        page += [f"## {name}", "", *SECTIONS[name](args.folder, args.requests, args.seed), ""]
        (args.folder / "report.md").write_text("\n".join(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
