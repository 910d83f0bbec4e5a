"""One worker of `jitney tune`: the model's backend in a process of its own, measured when it is told to.

It reads its job, a line of JSON, loads the model, says how long that took, and then answers each line of stdin:

    {"rows": 8, "seconds": 0.5}   ->  {"rate": rows per second, "median": s, "p95": s, "batches": n}
    {"answers": "FILE.npz"}       ->  {"answers": n}: the sample's outputs, written to the file

The requests are the bodies that were given, else the entries of model_warmup, else made up: seeded numbers. For image codecs
seeded pictures are made up.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from ...backends import factory
from ...backends.base import Backend
from ...backends.warmup import entry_requests
from ...codecs import create as create_codec
from ...core.model_config import ModelConfig
from ...core.request import Instance, Part, Request, Response
from ...core.tensor import Tensor
from ...server.repository.triton.repository import TritonRepository
from ..bench.batch_time import Alone, parse_shapes, synthetic
from ..bench.private_pipes import private_pipes
from .variants import IMAGE_CODECS, plain_parameters

#: Different requests of the sample; batches repeat them.
SAMPLE = 8
#: Requests whose answers are compared, where there are so many different ones.
COMPARED = 32
#: Decodings whose median counts.
DECODINGS = 9
PICTURE = (480, 640)
"""Height and width of a made-up picture where the model's input does not tell; else twice that."""


@dataclass(frozen=True)
class Job:
    """`parameters` are put on top of the plain model's. `body`: a file with one request, or a folder of such files; "" = what
    model_warmup says, or made up."""

    repository: str
    model: str
    parameters: dict[str, str]
    threads: int
    gpu: int | None
    body: str
    shapes: list[str]


def configured(job: Job) -> ModelConfig:
    """The newest version's configuration with the job's parameters."""
    config = TritonRepository([Path(job.repository)]).read(job.model)[-1]
    return replace(config, parameters=plain_parameters(config) | job.parameters)


def requests_of(config: ModelConfig, job: Job, count: int = SAMPLE) -> tuple[list[Request], float]:
    """At most `count` different requests, one row each, and the seconds that decoding one of them took (0 for tensors)."""
    bodies = _given(Path(job.body), count) if job.body else _pictures(config, count)
    if not bodies and config.warmup and config.inputs:
        return [entry_requests(config, entry)[0] for entry in config.warmup[:count]], 0.0
    if not bodies:
        lead = (1,) if config.batches else ()
        shapes = parse_shapes(job.shapes)
        return [Request(str(n), synthetic(config.inputs, shapes, lead, seed=n)) for n in range(count)], 0.0
    if config.backend == "handler":
        return [Request(str(n), parts=[Part("body", body)]) for n, body in enumerate(bodies)], 0.0
    codec = create_codec(config)
    times = []
    for number in range(DECODINGS):
        began = time.perf_counter()
        codec.decode([Part("body", bodies[number % len(bodies)])], {})
        times.append(time.perf_counter() - began)
    decoded = [codec.decode([Part("body", body)], {}) for body in bodies]
    return [Request(str(n), tensors) for n, tensors in enumerate(decoded)], statistics.median(times)


def _given(body: Path, count: int) -> list[bytes]:
    """The operator's requests: of a folder the first files by name."""
    files = sorted(file for file in body.iterdir() if file.is_file())[:count] if body.is_dir() else [body]
    return [file.read_bytes() for file in files]


def _pictures(config: ModelConfig, count: int) -> list[bytes]:
    """JPEGs with shapes and noise, for image codecs; else none."""
    if config.codec not in IMAGE_CODECS:
        return []
    from PIL import Image

    dims = config.inputs[0].dims
    height, width = PICTURE if -1 in dims else (2 * dims[-2], 2 * dims[-1])
    pictures = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
        noisy = np.asarray(coarse, np.int16) + rng.integers(-20, 21, (height, width, 3), dtype=np.int16)
        out = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        pictures.append(out.getvalue())
    return pictures


class Measured:
    """A loaded backend and the sample it runs."""

    def __init__(self, backend: Backend, sample: Sequence[Request]) -> None:
        self._backend, self._sample = backend, sample

    def batch(self, rows: int) -> list[Request]:
        return [msgspec.structs.replace(self._sample[n % len(self._sample)], id=str(n)) for n in range(rows)]

    def run(self, requests: Sequence[Request]) -> list[list[Tensor]]:
        """The answers of one batch, which are valid until the next; RuntimeError where a request fails."""
        answers: dict[int, list[Tensor]] = {}

        def respond(index: int, response: Response) -> None:
            if response.error is not None:
                raise RuntimeError(f"the model failed: {response.error.message}")
            answers[index] = response.tensors

        self._backend.execute(requests, respond)
        if len(answers) != len(requests):
            raise RuntimeError(f"{len(answers)} of {len(requests)} requests were answered")
        return [answers[index] for index in range(len(requests))]

    def measure(self, rows: int, seconds: float) -> dict[str, float]:
        """Batches of `rows`, back to back for `seconds`, at least two, after one that does not count."""
        requests = self.batch(rows)
        self.run(requests)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 2 or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            self.run(requests)
            times.append(time.perf_counter() - started)
        times.sort()
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        return {
            "rate": rows * len(times) / sum(times),
            "median": statistics.median(times),
            "p95": p95,
            "batches": len(times),
        }

    def answers(self, requests: Sequence[Request], largest: int) -> dict[str, Any]:
        """The outputs over all requests: [rows, …] where they have one shape, else all numbers in a row."""
        found: list[list[Tensor]] = []
        size = max(1, largest)
        for start in range(0, len(requests), size):
            part = [msgspec.structs.replace(each, id=str(n)) for n, each in enumerate(requests[start : start + size])]
            found += [_kept(answer) for answer in self.run(part)]
        outputs = {}
        for name in [tensor.name for tensor in found[0]]:
            arrays = [_numbers(tensor) for answer in found for tensor in answer if tensor.name == name]
            if not largest:  # without a batch axis
                arrays = [array[None] for array in arrays]
            same = all(array.ndim and array.shape[1:] == arrays[0].shape[1:] for array in arrays)
            outputs[name] = np.concatenate(arrays if same else [array.reshape(-1) for array in arrays])
        return outputs


def _kept(answer: Sequence[Tensor]) -> list[Tensor]:
    """An answer that outlives the next batch."""
    return [msgspec.structs.replace(tensor, data=bytes(tensor.data)) for tensor in answer]


def _numbers(tensor: Tensor) -> Any:
    """An output's numbers; strings as their bytes, so that they can be compared too."""
    if tensor.datatype == "BYTES":
        return np.frombuffer(bytes(tensor.data), np.uint8)
    values = tensor.numpy()
    if tensor.datatype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def serve(job: Job, orders: IO[str], answers: IO[str]) -> None:
    """Loads the model and answers each line of `orders` until they end."""

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    began = time.perf_counter()
    config = configured(job)
    backend = factory.create(config)
    backend.host = Alone()
    kind = "KIND_CPU" if job.gpu is None else "KIND_GPU"
    backend.load(config, Instance("tune", kind, job.gpu, job.threads))
    sample, decode = requests_of(config, job)
    measured = Measured(backend, sample)
    say({"loaded": time.perf_counter() - began, "decode": decode})
    for line in orders:
        order = json.loads(line)
        if "answers" in order:
            requests, _ = requests_of(config, job, COMPARED)
            np.savez(order["answers"], **measured.answers(requests, config.max_batch_size))
            say({"answers": len(requests)})
        else:
            say(measured.measure(order["rows"], order["seconds"]))


def main() -> int:
    orders, answers = private_pipes()
    job = Job(**json.loads(orders.readline()))
    try:
        serve(job, orders, answers)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is told, and ends this process only
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
