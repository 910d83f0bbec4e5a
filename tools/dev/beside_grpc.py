"""`python -m jitney.tools.dev.beside_grpc`: what clients of HTTP feel while gRPC is loaded, against as much CPU spent over HTTP.

A client of HTTP asks one model, at a fixed rate (open) or as fast as four connections are answered (closed): alone, beside calls
over gRPC for another model, and beside requests over HTTP for that other model. How many of these are sent is found first, so
that the server's processes and the sender together need as much CPU as they do for the calls. Rounds of all of them follow each
other, each in another order, and what is told is the median of their ratios, since a machine that others use too changes from
minute to minute.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..bench.open_loop import arrivals
from ..bench.ports import free_port
from ..bench.served import ServedProcess, serving
from ..bench.usage import usage
from .overload import Sample, closed, opened

#: Requests a second of the client that is measured, and connections where it asks as fast as it is answered.
RATE, CONNECTIONS = 150.0, 4
LOADS = ("alone", "gRPC", "HTTP")
KINDS = ("open", "closed")
_MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", request.inputs()[0].as_numpy())]) for request in requests]
"""
_CONFIG = """backend: "python" max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { kind: KIND_CPU } ] dynamic_batching { }
"""


@dataclass(frozen=True)
class Seen:
    """What the measured client saw: answers a second, seconds at two percentiles; CPU of everything meanwhile, in cores."""

    rate: float
    p50: float
    p99: float
    cores: float


def calls(address: str, rate: float, seconds: float) -> float:
    """Sends calls of ModelInfer at instants that were drawn before, and has all answered; this process' seconds of CPU."""
    import grpc

    from ...server.grpc import schema

    message = schema.triton().message("inference.ModelInferRequest")(model_name="other")
    message.inputs.add(name="x", datatype="FP32", shape=(1, 2))
    message.raw_input_contents.append(np.ones((1, 2), np.float32).tobytes())
    data: bytes = message.SerializeToString()

    async def run() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            await infer(data)
            began, asked = time.perf_counter(), list[Any]()
            for at in arrivals("poisson", rate, seconds, 2):
                await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
                asked.append(asyncio.create_task(_answer(infer, data)))
            await asyncio.gather(*asked)

    before = time.process_time()
    asyncio.run(run())
    return time.process_time() - before


async def _answer(infer: Any, data: bytes) -> None:
    await infer(data)


def requests(url: str, rate: float, seconds: float) -> float:
    """The same over HTTP."""
    before = time.process_time()
    if wrong := {status for status, _ in opened(url, rate, seconds / 1.1)} - {"200"}:
        raise RuntimeError(f"the load over HTTP was answered with {', '.join(sorted(wrong))}")
    return time.process_time() - before


class Comparison:
    """Asks one server. `grpc_rate`: calls a second beside the measured client."""

    def __init__(
        self, server: ServedProcess, address: str, pool: ProcessPoolExecutor, seconds: float, grpc_rate: float
    ) -> None:
        self._server, self._address, self._pool, self._seconds = server, address, pool, seconds
        self._grpc_rate = self._http_rate = grpc_rate
        self._asked, self._other = (f"{server.inference}/v2/models/{name}/infer" for name in ("asked", "other"))

    def calibrate(self, times: int) -> float:
        """Sets how many requests over HTTP need as much CPU as the calls do, beside the measured client; the CPU of a call in
        parts of that of a request."""
        for _ in range(times):
            rounds = [[self.seen(load, "open").cores for load in LOADS] for _ in range(3)]
            alone, grpc, http = (median(cores) for cores in zip(*rounds, strict=True))
            self._http_rate *= min(4.0, max(0.25, (grpc - alone) / max(http - alone, 0.01)))
        return self._http_rate / self._grpc_rate

    def seen(self, load: str, kind: str) -> Seen:
        """What the measured client sees beside this load."""
        beside = None
        seconds = 1.2 * self._seconds
        before, began = usage([self._server.process.pid]).ours, time.perf_counter()
        if load == "gRPC":
            beside = self._pool.submit(calls, self._address, self._grpc_rate, seconds)
        elif load == "HTTP":
            beside = self._pool.submit(requests, self._other, self._http_rate, seconds)
        ask: Callable[..., list[Sample]] = opened if kind == "open" else closed
        measured = self._pool.submit(ask, self._asked, RATE if kind == "open" else CONNECTIONS, self._seconds)
        samples = measured.result()
        own = beside.result() if beside is not None else 0.0
        cores = (usage([self._server.process.pid]).ours - before + own) / (time.perf_counter() - began)
        if wrong := {status for status, _ in samples} - {"200"}:
            raise RuntimeError(f"{kind} beside {load}: answered with {', '.join(sorted(wrong))}")
        took = [seconds for _, seconds in samples]
        p50, p99 = np.percentile(took, (50, 99))
        return Seen(len(took) / self._seconds, float(p50), float(p99), cores)

    def rounds(self, count: int) -> list[dict[tuple[str, str], Seen]]:
        order, chance, found = [(kind, load) for kind in KINDS for load in LOADS], random.Random(1), []
        for _ in range(count):
            chance.shuffle(order)
            found.append({(kind, load): self.seen(load, kind) for kind, load in order})
        return found


def table(rounds: Sequence[dict[tuple[str, str], Seen]]) -> list[str]:
    """Medians: of what was seen alone and beside each load, and of the rounds' ratios between the two loads."""
    lines = [
        "| client | beside | answers/s | p50 | p99 | cores | answers/s to HTTP's | p50 to HTTP's | p99 to HTTP's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for load in LOADS:
            found = [seen[kind, load] for seen in rounds]
            figures = [f"{median(seen.rate for seen in found):.0f}"]
            figures += [f"{1e3 * median(getattr(seen, name) for seen in found):.2f} ms" for name in ("p50", "p99")]
            figures.append(f"{median(seen.cores for seen in found):.2f}")
            for name in ("rate", "p50", "p99"):
                ratios = [getattr(seen[kind, load], name) / getattr(seen[kind, "HTTP"], name) for seen in rounds]
                figures.append("1" if load == "HTTP" else f"{median(ratios):.2f}")
            lines.append(f"| {kind} | {load} | " + " | ".join(figures) + " |")
    return lines


def write(folder: Path) -> None:
    """The model that is asked, and the one of the load beside it."""
    for name in ("asked", "other"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(_CONFIG)
        (folder / name / "1" / "model.py").write_text(_MODEL)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.beside_grpc", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--rate", type=float, default=400.0, help="calls a second over gRPC; the machine has to have CPU left"
    )
    parser.add_argument("--calibrations", type=int, default=2, help="how often the load over HTTP is adapted before")
    options = parser.parse_args(arguments)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="jitney-beside-") as folder:
        write(Path(folder))
        with (
            serving(
                Path(folder), flags=[f"--grpc-port={port}"], properties="disable_system_metrics=true\n", grpc=True
            ) as server,
            ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            comparison = Comparison(server, f"127.0.0.1:{port}", pool, options.seconds, options.rate)
            cost = comparison.calibrate(options.calibrations)
            before = usage([server.process.pid])
            rounds = comparison.rounds(options.rounds)
            busy, others = usage([server.process.pid]).since(before)
    print(f"the machine was busy to {busy:.0%}, {others:.0%} with others' work and the senders'")
    print(f"a call over gRPC costs as much CPU as {cost:.2f} requests over HTTP, sender included")
    print("\n".join(table(rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
