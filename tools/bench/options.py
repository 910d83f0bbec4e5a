"""The options of `jitney bench`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import open_loop
from .batch_time import parse_shapes


def read_options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Mapping[str, Sequence[int]]]:
    """The options, with `loads` as shares, and the shapes that they give; SystemExit with a sentence where they make no sense."""
    made = parser()
    options = made.parse_args(argv)
    try:
        options.loads = _loads(options.loads)
        shapes = parse_shapes(options.shape)
        _check(options)
    except ValueError as error:
        made.error(str(error))
    return options, shapes


def _check(options: argparse.Namespace) -> None:
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
    if options.plot is not None and not options.plot.absolute().parent.is_dir():
        raise ValueError(f"--plot: there is no folder '{options.plot.absolute().parent}'")


def given_line(text: str, largest: int) -> dict[int, float]:
    """`T0,A` in milliseconds as the times of two batch sizes; ValueError for anything else."""
    try:
        t0, a = (float(value) / 1e3 for value in text.split(","))
    except ValueError:
        t0, a = -1.0, 0.0
    if not (0 <= t0 < float("inf") and 0 < a < float("inf")):
        raise ValueError(f"--fit takes T0,A in milliseconds with T0 at least 0 and A above 0, got '{text}'")
    return {1: t0 + a, max(2, largest): t0 + a * max(2, largest)}


def _loads(text: str) -> list[float]:
    try:
        loads = [float(value) / 100 for value in text.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0 < share < 1 for share in loads):
        raise ValueError(f"--loads takes percentages between 0 and 100, e.g. 20,40,60,80; got '{text}'")
    return sorted(set(loads))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="jitney bench",
        description="Measured latency of a model under Poisson arrivals, beside what batching can reach.",
    )
    add = made.add_argument
    add("model", metavar="MODEL")
    add("--url", help="a running server, e.g. http://127.0.0.1:8080; else one is started")
    add("--metrics-url", metavar="URL", help="its metrics port (port 8082 of the same host)")
    add("--model-repository", type=Path, metavar="DIR", help="folder with the model's folder; also times the bare model")
    add("--property", action="append", default=[], metavar="KEY=VALUE", help="config.properties of the started server")
    add("--loads", default="20,40,60,80", help="percentages of what can be reached (20,40,60,80)")
    add("--seconds", type=float, default=5.0, help="length of one measurement, without its warm-up (5)")
    add("--rounds", type=int, default=3, help="medians are over these (3)")
    add("--body", type=Path, metavar="FILE", help="a request for /predictions/MODEL; else tensors by the model's inputs")
    add("--shape", action="append", default=[], metavar="NAME:D,D,…", help="sizes of an input's open axes")
    add("--fit", metavar="T0,A", help="batch times in milliseconds, where they are known or cannot be measured")
    add("--workers", type=int, metavar="N", help="workers that the server runs, where its configuration does not say")
    add("--connections", type=int, default=open_loop.CONNECTIONS, help=f"most to open ({open_loop.CONNECTIONS})")
    add("--seed", type=int, default=1)
    add("--plot", type=Path, metavar="FILE", help="write latency over the load as SVG")
    return made
