"""How close the server's latency comes to what batching can reach: `jitney bench MODEL`.

In interleaved rounds: the bare model's batch times, fitted to t(b) = t0 + a * b; a lone request; then Poisson arrivals at each
load, sent by an open-loop generator in a process of its own. A load is a share of what the workers could do with full batches, or
of what the server reaches with clients that never pause, where that is less: of a small model HTTP and the ways between the
processes are the limit.

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

from ...core.errors import JitneyError
from ...core.model_config import Batching
from ...server.batching.queue import Batcher
from ...server.process import progress
from ...server.process.cores import usable_cores
from ...server.process.progress import say
from . import chart, load, open_loop
from .batch_time import BareModel, Line, fit, sizes, synthetic
from .options import given_line, read_options
from .report import report
from .samples import Reach, Sample
from .served import ServerFailed, serving
from .simulate import Result, SimulatedServer, simulate, theory
from .target import Model, Target, TargetError, infer_request
from .usage import usage

#: What the load generator can send without becoming what is measured, in requests per second.
MOST_PER_SECOND = 20_000
#: Share of a run that is warm-up, and seconds of measuring batch times and lone requests in each round.
WARMUP, FIT_SECONDS, LONE_SECONDS = 0.2, 2.0, 1.5
#: The same for what the server reaches, and how many clients ask for that.
REACH_SECONDS, LEAST_CLIENTS, MOST_CLIENTS = 1.5, 8, 128
#: The highest load is below this share of what the server reaches, else loads are shares of that.
SUSTAINED = 0.95
#: A slow model is measured for longer, until so many requests count.
LEAST_REQUESTS = 5


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
    reach: Reach | None = None
    samples: dict[float, list[Sample]] = field(default_factory=dict)

    def server(self, line: Line) -> SimulatedServer:
        return SimulatedServer(max(1, self.model.max_rows), line.t0, line.a, self.model.workers)


def bench(plan: Plan) -> tuple[list[Line], list[float]]:
    """Fills `plan.samples` and `plan.reach`; returns the lines and the lone requests' mean latencies (seconds) of the rounds."""
    lines: list[Line] = []
    lone: list[float] = []
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}: batch times of the bare model")
        with progress.shown.task("batch times of the bare model"):
            lines.append(fit(plan.batch_times()))
        say(f"  {lines[-1]}")
        with progress.shown.task("one request after another"):
            lone.append(_lone(plan))
        if plan.reach is None:
            with progress.shown.task("as many clients as it can answer"):
                plan.reach = _reach(plan, plan.server(lines[0]).capacity)
            say(f"  {plan.reach}")
        for share in plan.loads:
            with progress.shown.task(f"load {share:.0%}"):
                sample = _at_load(plan, share * plan.reach.full, lines[-1], plan.seed + number)
            plan.samples.setdefault(share, []).append(sample)
            say(
                f"  load {share:.0%}, {sample.rate:,.0f}/s: mean {sample.measured.mean:.2f} ms, theory "
                f"{1e3 * sample.theory.mean:.2f} ms"
            )
    return lines, lone


def _reach(plan: Plan, capacity: float) -> Reach:
    """What is answered where as many clients as two full batches for each worker ask without a pause."""
    clients = min(plan.connections, MOST_CLIENTS, max(LEAST_CLIENTS, 2 * plan.model.max_rows * plan.model.workers))
    result = load.measure(plan.post.url, plan.post.body, dict(plan.post.headers), clients, REACH_SECONDS, 0.5)
    answered = result.rate * result.statuses.get("200", 0) / max(1, result.requests)
    if not answered:
        raise TargetError(f"{clients} clients at once were answered {result.statuses or 'not at all'}, expected 200")
    highest = max(plan.loads)
    full = capacity if highest * capacity <= SUSTAINED * answered else answered
    return Reach(capacity, answered, clients, min(full, MOST_PER_SECOND / highest))


def _lone(plan: Plan) -> float:
    result = load.measure(plan.post.url, plan.post.body, dict(plan.post.headers), 1, LONE_SECONDS, 0.5)
    if set(result.statuses) != {"200"}:
        raise TargetError(f"a lone request was answered {result.statuses or 'not at all'}, expected 200")
    return result.mean / 1e3


def _at_load(plan: Plan, rate: float, line: Line, seed: int) -> Sample:
    before, cores = plan.target.counters(), usage(plan.processes)
    counted = max(plan.seconds, LEAST_REQUESTS / rate)
    skip = WARMUP * counted
    seconds = counted + skip
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


def _simulated(batching: Batching, max_rows: int, times: Sequence[float], server: SimulatedServer, skip: float) -> Result:
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


# -- the command ----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    options, shapes = read_options(argv)
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
    for line in report(model, origin, lines, lone, plan.samples, plan.reach):
        print(line)
    if options.plot is not None:
        chart.write(options.plot, model.name, plan.samples)
        print(f"\nThe chart is in {options.plot}.")


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


if __name__ == "__main__":
    sys.exit(main())
