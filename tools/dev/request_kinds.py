"""What a request's form costs the server: `python -m jitney.tools.dev.request_kinds [--rounds 5] [--connections 32]`.

The same model that does next to nothing is asked in the ways in which clients ask, in turn: KServe v2 and `/predictions`, headers
that libraries send unasked, TorchServe's and SageMaker's routes, and a server that was started as TorchServe is, with its logs.
Printed are requests/s and the server process' CPU for a request, each the median of the rounds, and the CPU as a multiple of the
first line's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ..archive import main as archive
from ..bench.load import measure
from ..bench.served import ServedProcess, serving

TENSORS = """input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
STEP = 'model_name: "m" model_version: -1 input_map {{ key: "x" value: "{}" }} output_map {{ key: "y" value: "{}" }}'
STEPS = f"ensemble_scheduling {{ step [ {{ {STEP.format('x', 't')} }}, {{ {STEP.format('t', 'y')} }} ] }}"
#: The repository's models and their configurations.
MODELS = {
    "m": f'backend: "python" max_batch_size: 32\n{TENSORS}dynamic_batching {{ }}',
    "single": f'backend: "python" max_batch_size: 0\n{TENSORS}',
    "two_steps": f'platform: "ensemble" max_batch_size: 32\n{TENSORS}{STEPS}',
}
MODEL = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", array)]) for array in inputs]
"""
FORM = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n[1.5]\r\n--b--\r\n'
HANDLER = "def handle(data, context):\n    return ['1'] * len(data) if data else None\n"
HANDLER_CONFIG = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 32\nmaxBatchDelay: 0\n"
JSON = {"Content-Type": "application/json"}
LIBRARY = {**JSON, "Accept-Encoding": "gzip, deflate", "Accept": "*/*", "User-Agent": "python-requests/2.32.3"}
BROWSER = {
    **LIBRARY,
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Origin": "https://example.com",
    "Referer": "https://example.com/",
}
TRACED = {**JSON, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "x-request-id": "7"}


def v2(shape: Sequence[int] = (1, 1), **output: object) -> bytes:
    """A request by KServe v2, which asks for an output with these parameters where there are any."""
    asked: dict[str, object] = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1.5]}]}
    return json.dumps(asked | ({"outputs": [{"name": "y", "parameters": output}]} if output else {})).encode()


@dataclass(frozen=True)
class Kind:
    """One way to ask. `server`: repository, archive (scraped metrics, no log files), or torchserve (its logs)."""

    title: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    server: str = "repository"


KINDS = [
    Kind("KServe v2", "/v2/models/m/infer", v2()),
    Kind("KServe v2, headers of Python's requests", "/v2/models/m/infer", v2(), LIBRARY),
    Kind("KServe v2, headers of a browser", "/v2/models/m/infer", v2(), BROWSER),
    Kind("KServe v2, a trace that is not sampled", "/v2/models/m/infer", v2(), TRACED),
    Kind("KServe v2, an output named, in binary", "/v2/models/m/infer", v2(binary_data=True)),
    Kind("KServe v2, an output named, its class", "/v2/models/m/infer", v2(classification=1)),
    Kind("KServe v2, a model that does not batch", "/v2/models/single/infer", v2([1])),
    Kind("KServe v2, an ensemble of two steps", "/v2/models/two_steps/infer", v2()),
    Kind("generate", "/v2/models/m/generate", b'{"x": 1.5}'),
    Kind("KServe v1", "/v1/models/m:predict", b'{"instances": [[1.5]]}'),
    Kind("/predictions, JSON", "/predictions/m", b'{"x": [[1.5]]}'),
    Kind("/predictions, JSON, headers of Python's requests", "/predictions/m", b'{"x": [[1.5]]}', LIBRARY),
    Kind("/predictions, a form", "/predictions/m", FORM, {"Content-Type": "multipart/form-data; boundary=b"}),
    Kind("/predictions, a handler", "/predictions/h", b"1.5", JSON, "archive"),
    Kind("/invocations (SageMaker), a handler", "/invocations", b"1.5", JSON, "archive"),
    Kind("/predictions, a handler, TorchServe's logs", "/predictions/h", b"1.5", JSON, "torchserve"),
]


def _repository(folder: Path) -> Path:
    for name, config in MODELS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(config)
        if name != "two_steps":
            (version / "model.py").write_text(MODEL)
    return folder / "models"


def _store(folder: Path) -> Path:
    store = folder / "store"
    store.mkdir()
    (folder / "h.py").write_text(HANDLER)
    (folder / "config.yaml").write_text(HANDLER_CONFIG)
    options = ["--model-name", "h", "--version", "1.0", "--handler", f"{folder / 'h.py'}:handle"]
    if archive([*options, "--config-file", str(folder / "config.yaml"), "--export-path", str(store)]):
        raise RuntimeError("the archive could not be made")
    return store


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Mapping[str, ServedProcess]]:
    """The three servers by their names."""
    models, store = _repository(folder), _store(folder)
    empty = folder / "empty"
    empty.mkdir()
    scraped = f"model_store={store}\nload_models=all\nmetrics_mode=prometheus\n"
    with contextlib.ExitStack() as stack:
        yield {
            "repository": stack.enter_context(serving(models)),
            "archive": stack.enter_context(serving(empty, properties=scraped)),
            "torchserve": stack.enter_context(
                serving(store, properties="load_models=all\ndisable_token_authorization=true\n", torchserve=True)
            ),
        }


def asked(kind: Kind, server: ServedProcess, folder: Path, connections: int, seconds: float) -> tuple[float, float]:
    """Requests/s, and microseconds of the server's CPU for one. RuntimeError where one was not answered with 200."""
    body = folder / "body"
    body.write_bytes(kind.body)
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    found = measure(server.inference + kind.path, body, dict(kind.headers), connections, seconds, warmup=0.0)
    after = process.cpu_times()
    if set(found.statuses) != {"200"}:
        raise RuntimeError(f"{kind.title}: {found.statuses}")
    spent = after.user + after.system - before.user - before.system
    return found.rate, 1e6 * spent / found.requests


def figures(connections: int, seconds: float, rounds: int) -> list[tuple[Kind, float, float]]:
    """Requests/s and microseconds for each kind."""
    with tempfile.TemporaryDirectory(prefix="jitney-") as name, servers(Path(name)) as running:
        found: dict[str, list[tuple[float, float]]] = {kind.title: [] for kind in KINDS}
        for number in range(rounds + 1):
            for kind in KINDS if number % 2 else KINDS[::-1]:
                each = asked(kind, running[kind.server], Path(name), connections, seconds)
                if number:  # the first is for warming up
                    found[kind.title].append(each)
    medians = {title: [statistics.median(values) for values in zip(*each, strict=True)] for title, each in found.items()}
    return [(kind, *medians[kind.title]) for kind in KINDS]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.request_kinds", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    found = figures(options.connections, options.seconds, options.rounds)
    for kind, rate, spent in found:
        print(f"{kind.title:52} {rate:8.0f}/s {spent:7.1f} µs  × {spent / found[0][2]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
