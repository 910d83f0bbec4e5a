"""What a server could reach at best: the same model in a loop at full batch, in-process, without any server.

Each process decodes a full batch of requests with the model's own codec and runs the model's own backend on them, over and over.
`best` tries the ways to use all cores (one process with as many threads, as many processes with one) and takes the fastest;
`python -m jitney.tools.dev.ceiling` is one such process and prints its rate as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ...backends import factory
from ...codecs import create as create_codec
from ...core.model_config import ModelConfig
from ...core.request import Instance, Part, Request, Response
from ...core.tensor import Tensor
from ...server.process.cores import usable_cores
from ...server.repository.triton.repository import TritonRepository
from ...server.workers.own_process import MALLOC


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """Items per second of the best arrangement, and milliseconds of a batch of one in one process."""

    rate: float
    arrangement: str
    single_ms: float


def codec_decoder(config: ModelConfig) -> Callable[[bytes], list[Tensor]]:
    """Decodes a request as TorchServe's routes do, with the model's codec."""
    codec = create_codec(config)
    return lambda body: codec.decode([Part("body", body)], {})


def raw_decoder(config: ModelConfig) -> Callable[[bytes], list[Tensor]]:
    """Takes a request as the bytes of the model's only input (KServe's raw binary request)."""
    spec = config.inputs[0]
    return lambda body: [Tensor(spec.name, spec.datatype, (1, *spec.dims), body)]


def measure(config: ModelConfig, body: bytes, batch: int, threads: int, seconds: float, raw: bool) -> float:
    """Items per second of decode and forward at this batch size in this process."""
    backend = factory.create(config)
    backend.load(config, Instance("ceiling", threads=threads))
    decode = raw_decoder(config) if raw else codec_decoder(config)
    answered: list[int] = []

    def respond(index: int, response: Response) -> None:
        if response.error is not None:
            raise RuntimeError(f"the model failed: {response.error.message}")
        answered.append(index)

    def run() -> None:
        requests = [Request(str(i), decode(body)) for i in range(batch)]
        answered.clear()
        backend.execute(requests, respond)
        if len(answered) != batch:
            raise RuntimeError(f"{len(answered)} of {batch} requests were answered")

    for _ in range(3):
        run()
    batches, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        run()
        batches += 1
    return batches * batch / elapsed


def best(repository: Path, model: str, body: Path, batch: int, seconds: float, raw: bool = False) -> Ceiling:
    """The fastest arrangement of processes and threads over the cores that this process may use."""
    cores = usable_cores()
    arrangements = sorted({(1, cores), (cores, 1)})
    rates = {way: _together(repository, model, body, batch, seconds, *way, raw) for way in arrangements}
    processes, threads = max(rates, key=lambda way: rates[way])
    single = _together(repository, model, body, 1, min(seconds, 3.0), 1, cores, raw)
    return Ceiling(rates[processes, threads], f"{processes} × {threads} threads", 1e3 / single)


def _together(
    repository: Path, model: str, body: Path, batch: int, seconds: float, processes: int, threads: int, raw: bool
) -> float:
    """The sum of the rates of processes that run side by side."""
    command = [sys.executable, "-m", "jitney.tools.dev.ceiling", str(repository), model, str(body)]
    command += ["-b", str(batch), "-t", str(threads), "-s", str(seconds)]
    command += ["--raw"] if raw else []
    environment = {**MALLOC, **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(processes)]
    outputs = [process.communicate(timeout=seconds + 120)[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"the in-process loop of {model} failed")
    return float(sum(json.loads(output)["rate"] for output in outputs))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.tools.dev.ceiling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("model")
    parser.add_argument("body", type=Path, help="file with one request's body")
    parser.add_argument("-b", "--batch", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-s", "--seconds", type=float, default=5.0)
    parser.add_argument("--raw", action="store_true", help="the body is the bytes of the model's only input")
    options = parser.parse_args(argv)
    config = TritonRepository([options.repository]).read(options.model)[0]
    rate = measure(config, options.body.read_bytes(), options.batch, options.threads, options.seconds, options.raw)
    print(json.dumps({"rate": rate}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
