"""The comparison of batch policies as a page with tables, and plots of mean, p99 and the device's busy share.

    python -m jitney.tools.dev.simulate_report DIR

Rates are shares of the capacity (all batches full); a trace whose rate swings for long is scaled so that its peak has that share.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..bench.plot import Panel, svg
from ..bench.policies import make_queue
from ..bench.simulate import Result, SimulatedServer, describe, parser, server_of, simulate, theory
from ..bench.traces import BURST, DAY, PEAKS, SPREAD, SWING, TRACES

LOADS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Devices that share one queue, and the loads at which they are compared.
DEVICES, LOADS_OF_DEVICES = (1, 2, 4, 8), (0.2, 0.5, 0.8)
#: A batch's time on the host only, as a multiple of t0.
HOST_PARTS = (0.0, 1 / 3, 1.0)

WHAT = {
    "poisson": "Poisson arrivals.",
    "bursts": f"Bursts of {BURST} requests on average within {SPREAD * 1000:g} ms, beginning at Poisson instants.",
    "diurnal": (
        f"Days of some {DAY:g} s, or one shorter day where the requests last for less, with a rate that swings by {SWING:.0%} "
        "around its mean; the load is that of the peak."
    ),
}

Runs = dict[str, list[Result]]


def write(
    folder: Path, traces: Sequence[str], policies: Sequence[str], count: int, server: SimulatedServer, seed: int
) -> Iterator[str]:
    """Writes report.md and one SVG for each trace; yields what it is at."""
    folder.mkdir(parents=True, exist_ok=True)
    page = [f"{describe(server)}: at most {server.capacity:,.0f} requests/s; {count:,} requests per value, seed {seed}.", ""]
    for trace in traces:
        yield f"{trace}: {len(policies)} policies at {len(LOADS)} loads"
        rates = [load * server.capacity / PEAKS[trace] for load in LOADS]
        runs = _runs(trace, rates, policies, count, server, seed)
        (folder / f"{trace}.svg").write_text(svg(_panels(runs)), encoding="utf-8")
        page += [f"## {trace}", "", WHAT[trace], "", f"![{trace}]({trace}.svg)", "", *_table(rates, runs, trace, server), ""]
    yield f"devices: {', '.join(map(str, DEVICES))}"
    page += ["## devices", "", *_devices(count, server, seed), ""]
    page += ["## a second worker for the device", "", *_second_worker(count, server, seed), ""]
    (folder / "report.md").write_text("\n".join(page), encoding="utf-8")
    yield f"wrote {folder / 'report.md'} and {', '.join(f'{trace}.svg' for trace in traces)}"


def _arrivals(trace: str, rate: float, count: int, seed: int) -> list[float]:
    times: list[float] = TRACES[trace](rate, count, np.random.default_rng(seed)).tolist()
    return times


def _runs(
    trace: str, rates: Sequence[float], policies: Sequence[str], count: int, server: SimulatedServer, seed: int
) -> Runs:
    runs: Runs = {policy: [] for policy in policies}
    for rate in rates:
        arrivals = _arrivals(trace, rate, count, seed)
        for policy, results in runs.items():
            results.append(simulate(make_queue(policy, server.max_rows), arrivals, server))
    return runs


def _panels(runs: Runs) -> list[Panel]:
    def series(value: str, scale: float) -> dict[str, list[tuple[float, float]]]:
        return {
            policy: [(100 * load, scale * getattr(result, value)) for load, result in zip(LOADS, results, strict=True)]
            for policy, results in runs.items()
        }

    load = "load, % of capacity"
    return [
        Panel("mean latency", load, "ms", series("mean", 1000), log=True),
        Panel("p99 latency", load, "ms", series("p99", 1000), log=True),
        Panel("device busy", load, "% of the time", series("busy", 100)),
    ]


def _table(rates: Sequence[float], runs: Runs, trace: str, server: SimulatedServer) -> list[str]:
    """Mean / p99 in ms and the device's busy share, a row for each load."""
    bounds = [theory(rate, server) if trace == "poisson" else None for rate in rates]
    with_bound = any(bound is not None for bound in bounds)
    heads = ["load", "req/s", *runs, *(["bound of the mean, zero"] if with_bound else [])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for number, (load, rate) in enumerate(zip(LOADS, rates, strict=True)):
        results = [results[number] for results in runs.values()]
        best = min(result.mean for result in results)
        cells = [f"{load:.0%}", f"{rate:,.0f}", *(_cell(result, best) for result in results)]
        if with_bound:
            cells.append(_milliseconds(bounds[number]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(result: Result, best: float) -> str:
    times = f"{result.mean * 1000:.1f} / {result.p99 * 1000:.1f}"
    return f"{f'**{times}**' if result.mean <= best * 1.005 else times}, {result.busy:.0%}"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value * 1000:.1f}"


def _devices(count: int, server: SimulatedServer, seed: int) -> list[str]:
    """Zero delay with one queue for several devices, at the same load for each device."""
    heads = ["devices", *(f"load {load:.0%}" for load in LOADS_OF_DEVICES)]
    lines = [
        "Zero delay, Poisson arrivals, one queue for several devices with a worker each: mean / p99 in ms, mean batch.",
        "",
    ]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for devices in DEVICES:
        many = replace(server, workers=devices, devices=devices)
        cells = [_zero(load * many.capacity, count, many, seed) for load in LOADS_OF_DEVICES]
        lines.append("| " + " | ".join([f"{devices}", *cells]) + " |")
    return lines


def _second_worker(count: int, server: SimulatedServer, seed: int) -> list[str]:
    """One worker or two for one device, where a batch takes its worker some time before it takes the device."""
    loads = [f"load {load:.0%} of one worker" for load in LOADS_OF_DEVICES]
    heads = ["host ms for each batch", "workers", "requests/s at most", *loads]
    lines = ["Zero delay, Poisson arrivals, one device: mean / p99 in ms, mean batch.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for part in HOST_PARTS:
        one = replace(server, workers=1, devices=1, host=part * server.t0)
        for workers in (1, 2):
            each = replace(one, workers=workers)
            cells = [_zero(load * one.capacity, count, each, seed) for load in LOADS_OF_DEVICES]
            first = [f"{one.host * 1000:g}", f"{workers}", f"{each.capacity:,.0f}"]
            lines.append("| " + " | ".join([*first, *cells]) + " |")
    return lines


def _zero(rate: float, count: int, server: SimulatedServer, seed: int) -> str:
    result = simulate(make_queue("zero", server.max_rows), _arrivals("poisson", rate, count, seed), server)
    return f"{result.mean * 1000:.1f} / {result.p99 * 1000:.1f}, {result.mean_batch:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    made = parser("jitney.tools.dev.simulate_report", "Compares batch policies in simulated time, as a page with plots.")
    made.add_argument("folder", type=Path, metavar="DIR", help="where report.md and the plots go")
    args = made.parse_args(argv)
    server, traces = server_of(made, args), [args.trace] if args.trace else list(TRACES)
    for line in write(args.folder, traces, args.policies, args.requests, server, args.seed):
        print(line, file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
