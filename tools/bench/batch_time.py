"""How long the bare model takes for a batch: t(b) = t0 + a * b, fitted to runs of its own backend at sizes 1, 2, 4, … in-process.

`fit` is the arithmetic. `BareModel` is the loaded model in a process of its own, as a worker has it (same device, same number of
threads), measured again and again between other measurements; `python -m jitney.tools.bench.batch_time` is that process.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from ...backends import factory
from ...backends.base import Backend, DeviceLost
from ...codecs import create as create_codec
from ...core.errors import JitneyError
from ...core.model_config import ModelConfig, TensorSpec
from ...core.request import Part, Request, Response
from ...core.tensor import NUMPY_DTYPES, Tensor
from ...server.process.cores import gpus, usable_cores, wanted_threads
from ...server.repository.triton.repository import TritonRepository
from ...server.workers.placement import declared, instances
from .private_pipes import private_pipes

#: What is shown of the output of a model that failed.
LAST_BYTES = 2000


@dataclasses.dataclass(frozen=True)
class Line:
    """t(b) = t0 + a * b in seconds; `r2` says how much of the points' variation it explains."""

    t0: float
    a: float
    r2: float
    points: Mapping[int, float]

    def __call__(self, rows: int) -> float:
        return self.t0 + self.a * rows

    def __str__(self) -> str:
        sizes = ", ".join(f"{rows}: {1e3 * seconds:.2f}" for rows, seconds in self.points.items())
        return f"t(b) = {1e3 * self.t0:.2f} ms + {1e3 * self.a:.3f} ms × b, R² {self.r2:.3f} (ms at b = {sizes})"


def fit(points: Mapping[int, float], weights: Mapping[int, float] | None = None) -> Line:
    """Least squares over (rows -> seconds), kept to t0 >= 0 and a > 0; a single point gives a line without t0."""
    if not points or any(rows < 1 or seconds <= 0 for rows, seconds in points.items()):
        raise ValueError(f"a line needs sizes of at least 1 and times above 0, got {dict(points)}")
    b = np.array(list(points), dtype=np.float64)
    t = np.array(list(points.values()))
    w = np.array([1.0 if weights is None else weights[rows] for rows in points])
    a, t0 = _slope(b, t, w)
    if t0 < 0:
        a, t0 = float((w * b * t).sum() / (w * b * b).sum()), 0.0
    elif a <= 0:
        a, t0 = 1e-9, float(np.average(t, weights=w))
    spread = float((w * (t - np.average(t, weights=w)) ** 2).sum())
    rest = float((w * (t - t0 - a * b) ** 2).sum())
    return Line(t0, a, 1 - rest / spread if spread > 0 else 1.0, dict(points))


def _slope(b: np.ndarray, t: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Slope and intercept without limits; through the origin where all sizes are the same."""
    mean_b, mean_t = np.average(b, weights=w), np.average(t, weights=w)
    width = float((w * (b - mean_b) ** 2).sum())
    if width == 0:
        return float(mean_t / mean_b), 0.0
    a = float((w * (b - mean_b) * (t - mean_t)).sum()) / width
    return a, float(mean_t - a * mean_b)


def sizes(largest: int) -> list[int]:
    """1, 2, 4, … and the largest itself."""
    powers = itertools.takewhile(lambda rows: rows < largest, (1 << n for n in itertools.count()))
    return [*powers, max(1, largest)]


# -- requests ------------------------------------------------------------------------------------------------------------


def synthetic(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], lead: tuple[int, ...], seed: int = 0
) -> list[Tensor]:
    """One tensor for each input: seeded values in [0, 1) for floats, zeros for the rest. ValueError where a shape is open."""
    unknown = set(shapes) - {spec.name for spec in specs}
    if unknown:
        raise ValueError(f"no input is called {', '.join(sorted(unknown))}; expected {', '.join(s.name for s in specs)}")
    rng = np.random.default_rng(seed)
    tensors = []
    for spec in specs:
        if spec.optional:
            continue
        dims = tuple(shapes.get(spec.name, spec.dims))
        if -1 in dims or spec.datatype == "BYTES":
            raise ValueError(
                f"input '{spec.name}' is {spec.datatype} {list(dims)}: give its shape with --shape {spec.name}:D,D,… or a "
                "request with --body FILE"
            )
        shape = (*lead, *dims)
        dtype = NUMPY_DTYPES[spec.datatype]
        values = rng.random(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
        tensors.append(Tensor(spec.name, spec.datatype, shape, values.tobytes()))
    return tensors


def requests_of(
    config: ModelConfig, body: bytes | None, shapes: Mapping[str, Sequence[int]]
) -> Callable[[int], list[Request]]:
    """Makes batches of b requests of one row: of the body as TorchServe's route takes it, or of synthetic tensors."""
    lead = (1,) if config.batches else ()
    if body is not None and config.backend == "handler":
        return lambda rows: [Request(str(n), parts=[Part("body", body)]) for n in range(rows)]
    if body is not None:
        tensors = create_codec(config).decode([Part("body", body)], {})
    else:
        tensors = synthetic(config.inputs, shapes, lead)
    if not tensors or any(prod(tensor.shape) == 0 for tensor in tensors):
        raise ValueError(f"model '{config.name}' declares no inputs: give a request with --body FILE")
    return lambda rows: [Request(str(n), tensors) for n in range(rows)]


# -- the process ---------------------------------------------------------------------------------------------------------


class Alone:
    """The backend's host where there is no server: metrics go nowhere, other models are not there."""

    def emit(self, kind: str, payload: Mapping[str, Any], held: bool = False) -> None:
        pass

    def infer(self, model: str, version: str, request: Request) -> Iterator[Response]:
        raise RuntimeError(f"the model calls '{model}', which is not there without a server: give its times with --fit T0,A")

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        raise RuntimeError(f"the model asks to {verb} '{model}', which needs a server: give its times with --fit T0,A")

    def lose(self, error: DeviceLost) -> NoReturn:
        raise error


class Loaded:
    """The model's backend in this process, on its first instance's device with its share of the threads."""

    def __init__(self, config: ModelConfig, make: Callable[[int], list[Request]]) -> None:
        devices = gpus()
        workers = max(1, declared(config, devices))
        instance = instances(config, workers, gpus=devices, cores=usable_cores(), threads=wanted_threads())[0]
        self._backend: Backend = factory.create(config)
        self._backend.host = Alone()
        self._backend.load(config, instance)
        self._make, self._largest = make, max(1, config.max_batch_size)

    def measure(self, seconds: float) -> dict[int, float]:
        """The median time of a batch at each size, in seconds; the sizes take turns."""
        batches = {rows: self._make(rows) for rows in sizes(self._largest)}
        times: dict[int, list[float]] = {rows: [] for rows in batches}
        for requests in batches.values():
            self._run(requests)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not all(times.values()):
            for rows, requests in batches.items():
                times[rows].append(self._run(requests))
        return {rows: statistics.median(seen) for rows, seen in times.items()}

    def _run(self, requests: list[Request]) -> float:
        answered = 0

        def respond(index: int, response: Response) -> None:
            nonlocal answered
            if response.error is not None:
                raise RuntimeError(f"the model failed: {response.error.message}")
            answered += response.final

        began = time.perf_counter()
        self._backend.execute(requests, respond)
        seconds = time.perf_counter() - began
        if answered != len(requests):
            raise RuntimeError(f"{answered} of {len(requests)} requests were answered; decoupled models have no batch time")
        return seconds


class BareModel:
    """The model in a process of its own; a context manager. RuntimeError with the process's last words where it fails.

    What the model prints goes into a file: on a terminal it would drown the rest, and take its time.
    """

    def __init__(self, repository: Path, model: str, body: Path | None = None, shapes: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "jitney.tools.bench.batch_time", str(repository), model]
        command += ["--body", str(body)] if body is not None else []
        for shape in shapes:
            command += ["--shape", shape]
        self._printed = tempfile.TemporaryFile(prefix="jitney-bench-")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed, text=True
        )

    def measure(self, seconds: float) -> dict[int, float]:
        """Median seconds of a batch by rows, measured for about `seconds`."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the process was started without pipes")
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the bare model failed with status {self._process.wait(10)}: {self._last_words()}")
        return {int(rows): float(value) for rows, value in json.loads(line).items()}

    def _last_words(self) -> str:
        self._printed.seek(-min(LAST_BYTES, self._printed.seek(0, os.SEEK_END)), os.SEEK_END)
        text = self._printed.read().decode(errors="replace").strip()
        return text or "it said nothing"

    def __enter__(self) -> BareModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._printed.close()


def parse_shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """`NAME:D,D,…` without the batch axis; ValueError for anything else."""
    shapes = {}
    for text in texts:
        name, _, dims = text.rpartition(":")
        try:
            shapes[name] = [int(size) for size in dims.split(",")]
        except ValueError:
            shapes[name] = [0]
        if not name or any(size < 1 for size in shapes[name]):
            raise ValueError(f"a shape is NAME:D,D,… with sizes of at least 1, got '{text}'")
    return shapes


def main(argv: list[str] | None = None) -> int:
    """Reads seconds from lines of stdin and answers each with a line of JSON: rows -> seconds of a batch."""
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.bench.batch_time", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("repository", type=Path)
    parser.add_argument("model")
    parser.add_argument("--body", type=Path, help="one request as TorchServe's route takes it")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME:D,D,…", help="size of an input's open axes")
    options = parser.parse_args(argv)
    orders, answers = private_pipes()
    try:
        config = TritonRepository([options.repository]).read(options.model)[-1]
        body = None if options.body is None else options.body.read_bytes()
        loaded = Loaded(config, requests_of(config, body, parse_shapes(options.shape)))
        for line in orders:
            print(json.dumps(loaded.measure(float(line))), file=answers, flush=True)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is told, and ends this process only
        told = str(error) if isinstance(error, JitneyError | ValueError | OSError | RuntimeError) else repr(error)
        print(f"{options.model}: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
