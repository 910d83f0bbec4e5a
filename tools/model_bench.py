"""How close the server's latency comes to what batching can reach: `jitney bench MODEL`.

In interleaved rounds: the bare model's batch times, fitted to t(b) = t0 + a * b; a lone request; then Poisson arrivals at each
load, sent by an open-loop generator in a process of its own. A load is a share of what the workers could do with full batches.

theory   mean latency of zero-delay batching: the production `Batcher` over the very arrivals that were sent, in simulated time,
         each batch taking t(b). It has no HTTP, no processes and no other load on the cores.
bound    Inoue's closed form of the same for endless Poisson arrivals, one worker and batches without a limit
lone     what a single request costs over t(1): HTTP, parsing, the way to the worker and back
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..server.batching.queue import Batcher
from ..server.errors import JitneyError
from ..server.repository.config import Batching
from ..server.workers.cores import usable_cores
from . import load, open_loop
from .batch_time import BareModel, Line, fit, parse_shapes, sizes, synthetic
from .bench_report import Sample, report
from .served import ServerFailed, serving
from .simulate import Result, Server, simulate, theory
from .target import Model, Target, TargetError, infer_request
from .usage import usage

#: What the load generator can send without becoming what is measured, in requests per second.
MOST_PER_SECOND = 20_000
#: Share of a run that is warm-up, and seconds of measuring batch times and lone requests in each round.
WARMUP, FIT_SECONDS, LONE_SECONDS = 0.2, 2.0, 1.5


@dataclass(frozen=True)
class Post:
    """The request that is sent over and over."""

    url: str
    body: Path
    headers: Mapping[str, str]


@dataclass
class Plan:
    """What is measured, and how the bare model's batch times are found. `processes`: the server's, if it is ours."""

    target: Target
    model: Model
    post: Post
    batch_times: Callable[[], dict[int, float]]
    loads: Sequence[float]
    seconds: float
    rounds: int
    seed: int
    connections: int
    processes: Sequence[int] = ()
    samples: dict[float, list[Sample]] = field(default_factory=dict)

    def server(self, line: Line) -> Server:
        return Server(max(1, self.model.max_rows), line.t0, line.a, self.model.workers)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bench(plan: Plan) -> tuple[list[Line], list[float]]:
    """Fills `plan.samples`; returns the lines and the lone requests' mean latencies (seconds) of the rounds."""
    lines: list[Line] = []
    lone: list[float] = []
    capacity = 0.0
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}: batch times of the bare model")
        lines.append(fit(plan.batch_times()))
        say(f"  {lines[-1]}")
        if not capacity:
            capacity = plan.server(lines[0]).capacity
            _check_rates(plan, capacity)
        lone.append(_lone(plan))
        for share in plan.loads:
            sample = _at_load(plan, share * capacity, lines[-1], plan.seed + number)
            plan.samples.setdefault(share, []).append(sample)
            say(
                f"  load {share:.0%}, {sample.rate:,.0f}/s: mean {sample.measured.mean:.2f} ms, theory "
                f"{1e3 * sample.theory.mean:.2f} ms"
            )
    return lines, lone


def _check_rates(plan: Plan, capacity: float) -> None:
    highest = max(plan.loads) * capacity
    if highest > MOST_PER_SECOND:
        raise TargetError(
            f"{max(plan.loads):.0%} of what '{plan.model.name}' can do is {highest:,.0f} requests/s; the load generator sends "
            f"{MOST_PER_SECOND:,} at most: its batches are too quick to be measured over HTTP, or choose lower --loads"
        )


def _lone(plan: Plan) -> float:
    result = load.measure(plan.post.url, plan.post.body, dict(plan.post.headers), 1, LONE_SECONDS, 0.5)
    if set(result.statuses) != {"200"}:
        raise TargetError(f"a lone request was answered {result.statuses or 'not at all'}, expected 200")
    return result.mean / 1e3


def _at_load(plan: Plan, rate: float, line: Line, seed: int) -> Sample:
    before, cores = plan.target.counters(), usage(plan.processes)
    skip = WARMUP * plan.seconds
    seconds = plan.seconds + skip
    measured = open_loop.measure(
        plan.post.url,
        plan.post.body,
        dict(plan.post.headers),
        rate=rate,
        seconds=seconds,
        skip=skip,
        seed=seed,
        connections=plan.connections,
    )
    if not measured.requests:
        raise TargetError(f"at {rate:,.0f} requests/s no answer was 200: {measured.statuses or 'nothing was sent'}")
    gained, busy = plan.target.counters().since(before), usage(plan.processes).since(cores)
    times = open_loop.arrivals("poisson", rate, seconds, seed)
    server = plan.server(line)
    best = _simulated(_ZERO, plan.model.max_rows, times, server, skip)
    declared = None
    if plan.model.batching is not None and plan.model.batching != _ZERO:
        declared = _simulated(plan.model.batching, plan.model.max_rows, times, server, skip)
    return Sample(rate, measured, gained, line, best, declared, theory(rate, server), busy)


_ZERO = Batching(enabled=True)


def _simulated(batching: Batching, max_rows: int, times: Sequence[float], server: Server, skip: float) -> Result:
    """The Batcher over these arrivals; only those after the warm-up have a latency."""
    result = simulate(Batcher(batching, max_rows), times, server)
    first = next((n for n, at in enumerate(times) if at >= skip), 0)
    return replace(result, latencies=result.latencies[first:])


# -- where the batch times come from ----------------------------------------------------------------------------------------


def served_batch_times(target: Target, model: Model, shapes: Mapping[str, Sequence[int]], folder: Path) -> dict[int, float]:
    """Without the model's files: lone requests of b rows, and what the server says that each batch took in its worker."""
    times = {}
    for rows in sizes(model.max_rows):
        body, headers = infer_request(synthetic(model.inputs, shapes, (rows,) if model.max_rows else ()))
        path = folder / "rows.bin"
        path.write_bytes(body)
        before = target.counters()
        result = load.measure(target.infer_url, path, headers, 1, FIT_SECONDS / len(sizes(model.max_rows)), 0.1)
        gained = target.counters().since(before).batches.get(rows)
        if set(result.statuses) - {"200"} or gained is None:
            raise TargetError(f"a request of {rows} rows was answered {result.statuses or 'not at all'}, expected 200")
        times[rows] = gained[1] / gained[0] / 1e9
    return times


def given_line(text: str, largest: int) -> dict[int, float]:
    """`T0,A` in milliseconds as the times of two batch sizes; ValueError for anything else."""
    try:
        t0, a = (float(value) / 1e3 for value in text.split(","))
    except ValueError:
        t0, a = -1.0, 0.0
    if not (0 <= t0 < float("inf") and 0 < a < float("inf")):
        raise ValueError(f"--fit takes T0,A in milliseconds with T0 at least 0 and A above 0, got '{text}'")
    return {1: t0 + a, max(2, largest): t0 + a * max(2, largest)}


# -- the command ----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        options.loads = _loads(options.loads)
        shapes = parse_shapes(options.shape)
        if options.fit is not None:
            given_line(options.fit, 2)
        if not options.url and not options.model_repository:
            raise ValueError("give --model-repository DIR, --url URL of a running server, or both")
        if options.url and options.property:
            raise ValueError("--property is for a server that this command starts: leave out --url")
        if options.metrics_url and not options.url:
            raise ValueError("--metrics-url is for a running server: it needs --url")
        for name, low in (("seconds", 0.1), ("rounds", 1), ("connections", 1)):
            if not low <= getattr(options, name) <= 100_000:
                raise ValueError(f"--{name} must be at least {low}, got {getattr(options, name)}")
    except ValueError as error:
        parser.error(str(error))
    try:
        with tempfile.TemporaryDirectory(prefix="jitney-bench-") as folder, _target(options) as (target, processes):
            _measure(options, shapes, target, Path(folder), processes)
    except (TargetError, ServerFailed, JitneyError, ValueError, OSError, RuntimeError) as error:
        say(f"jitney bench: {error}")
        return 1
    return 0


def _measure(
    options: argparse.Namespace, shapes: Mapping[str, Sequence[int]], target: Target, folder: Path, processes: Sequence[int]
) -> None:
    model = target.describe()
    if options.workers:
        model = replace(model, workers=options.workers)
    post = _post(options, target, model, shapes, folder)
    with contextlib.ExitStack() as stack:
        if options.fit is not None:
            points = given_line(options.fit, model.max_rows)
            origin, batch_times = "as given with --fit", lambda: points
        elif options.model_repository:
            bare = stack.enter_context(BareModel(options.model_repository, model.name, options.body, options.shape))
            origin, batch_times = "the bare model, in a process of its own", lambda: bare.measure(FIT_SECONDS)
        else:
            origin = "the server's workers, with lone requests of b rows"
            batch_times = lambda: served_batch_times(target, model, shapes, folder)  # noqa: E731
        plan = Plan(
            target,
            model,
            post,
            batch_times,
            options.loads,
            options.seconds,
            options.rounds,
            options.seed,
            options.connections,
            processes,
        )
        lines, lone = bench(plan)
    print(f"{platform.processor() or platform.machine()}, {usable_cores()} cores, Python {platform.python_version()}")
    for line in report(model, origin, lines, lone, plan.samples):
        print(line)


def _post(
    options: argparse.Namespace, target: Target, model: Model, shapes: Mapping[str, Sequence[int]], folder: Path
) -> Post:
    if options.body is not None:
        return Post(target.predictions_url, options.body, {"Content-Type": "application/octet-stream"})
    if not model.inputs:
        raise TargetError(f"model '{model.name}' declares no inputs: give a request with --body FILE")
    body, headers = infer_request(synthetic(model.inputs, shapes, (1,) if model.max_rows else ()))
    path = folder / "request.bin"
    path.write_bytes(body)
    return Post(target.infer_url, path, headers)


@contextlib.contextmanager
def _target(options: argparse.Namespace) -> Iterator[tuple[Target, Sequence[int]]]:
    """The server at --url, else one that is started for the model; and our processes of it."""
    if options.url:
        yield Target(options.url, options.model, options.metrics_url), ()
        return
    if not options.model_repository.is_dir():
        raise TargetError(f"'{options.model_repository}' is not a folder")
    say(f"starting a server for '{options.model}'")
    properties = "".join(f"{line}\n" for line in options.property)
    with serving(
        options.model_repository.absolute(), flags=["--load-model", options.model], properties=properties
    ) as server:
        yield Target(server.inference, options.model, server.metrics), [server.process.pid]


def _loads(text: str) -> list[float]:
    try:
        loads = [float(value) / 100 for value in text.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0 < share < 1 for share in loads):
        raise ValueError(f"--loads takes percentages between 0 and 100, e.g. 20,40,60,80; got '{text}'")
    return sorted(set(loads))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney bench",
        description="Measured latency of a model under Poisson arrivals, beside what batching can reach.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("--url", help="a running server, e.g. http://127.0.0.1:8080; else one is started")
    add("--metrics-url", metavar="URL", help="its metrics port (port 8082 of the same host)")
    add("--model-repository", type=Path, metavar="DIR", help="folder with the model's folder; also times the bare model")
    add("--property", action="append", default=[], metavar="KEY=VALUE", help="config.properties of the started server")
    add("--loads", default="20,40,60,80", help="percentages of the capacity (20,40,60,80)")
    add("--seconds", type=float, default=5.0, help="length of one measurement, without its warm-up (5)")
    add("--rounds", type=int, default=3, help="medians are over these (3)")
    add("--body", type=Path, metavar="FILE", help="a request for /predictions/MODEL; else tensors by the model's inputs")
    add("--shape", action="append", default=[], metavar="NAME:D,D,…", help="sizes of an input's open axes")
    add("--fit", metavar="T0,A", help="batch times in milliseconds, where they are known or cannot be measured")
    add("--workers", type=int, metavar="N", help="workers that the server runs, where its configuration does not say")
    add("--connections", type=int, default=open_loop.CONNECTIONS, help=f"most to open ({open_loop.CONNECTIONS})")
    add("--seed", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
