"""What a Triton user would try first, each step with its answer: `make triton-demo`.

Serves the models with which a Triton was recorded (tests/conformance/recordings, or where JITNEY_CONFORMANCE says), else the
shipped digits, as `jitney serve` with tritonserver's flags, and drives them with `tritonclient.http` and
its aio client. Every answer is checked; the status is 0 only if all of it held.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shared_memory
import urllib3
from tritonclient.utils import InferenceServerException

from ..bench.served import ServedProcess, ServerFailed, serving
from ..steps import NotAsPromised, expect, heading
from . import build_models, triton_demo_kit
from .triton_demo_kit import show

REQUESTS = 32
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """The model that is tried: one FP32 input, one FP32 output with labels. `others` are loaded too."""

    repository: Path
    model: str
    input: str
    output: str
    shape: tuple[int, ...]
    others: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        loads = [f"--load-model={name}" for name in (self.model, *self.others)]
        return ["--model-control-mode=explicit", *loads, "--strict-readiness=false"]

    def rows(self, count: int, seed: int = 0) -> Array:
        return np.random.default_rng(seed).random((count, *self.shape), np.float32)

    def tensor(self, rows: Array, *, binary: bool = True) -> triton.InferInput:
        tensor = triton.InferInput(self.input, list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=binary)
        return tensor


def kit() -> Path | None:
    """The folder of the recorded models, None where there is none."""
    recordings = Path(__file__).resolve().parents[2] / "tests" / "conformance" / "recordings"
    folder = Path(os.environ.get("JITNEY_CONFORMANCE") or recordings) / "triton" / "model_repository"
    return folder if folder.is_dir() else None


def subject() -> Subject:
    repository = kit()
    if repository is not None:
        return Subject(repository, "torch_cnn", "IMAGE", "LOGITS", (3, 32, 32), triton_demo_kit.MODELS)
    heading("Building the models")
    shipped = Path(__file__).resolve().parents[2] / "model_repository"
    if build_models.main(["--repository", str(shipped)]):
        raise NotAsPromised("the models could not be built")
    return Subject(shipped, "digits_onnx", "image", "logits", (1, 8, 8), ("digits_torchscript",))


def refusal(call: Any, *arguments: Any) -> str:
    """The text with which the server refuses; printed as a user sees it."""
    try:
        call(*arguments)
    except InferenceServerException as error:
        show(error)
        return str(error)
    raise NotAsPromised("a refusal")


# -- steps that any repository has -----------------------------------------------------------------------------------------


def health(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading("client.is_server_ready(), client.get_server_metadata(), client.get_model_repository_index()")
    show(client.get_server_metadata())
    index = client.get_model_repository_index()
    show("\n".join(json.dumps(row) for row in index if "state" in row))
    expect(client.is_server_live() and client.is_server_ready(), "the server is live and ready")
    expect(client.is_model_ready(subject.model), f"{subject.model} is ready")


def described(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading(f"client.get_model_metadata('{subject.model}')")
    metadata = client.get_model_metadata(subject.model)
    show(json.dumps(metadata))
    expect(metadata["inputs"][0]["shape"] == [-1, *subject.shape], "the input's shape, with its batch axis")
    config = client.get_model_config(subject.model)
    expect("dynamic_batching" in config, "get_model_config has the whole config.pbtxt")


def one_request(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading(f"client.infer('{subject.model}', …), binary and JSON, and with gzip")
    rows = subject.rows(2)
    binary = client.infer(subject.model, [subject.tensor(rows)], request_id="first")
    show(np.array2string(binary.as_numpy(subject.output), precision=3, suppress_small=True))
    outputs = [triton.InferRequestedOutput(subject.output, binary_data=False)]
    as_json = client.infer(subject.model, [subject.tensor(rows, binary=False)], outputs=outputs)
    zipped = client.infer(
        subject.model, [subject.tensor(rows)], request_compression_algorithm="gzip", response_compression_algorithm="gzip"
    )
    expected = binary.as_numpy(subject.output)
    expect(binary.get_response()["id"] == "first", "the reply carries the request's id")
    expect(np.allclose(as_json.as_numpy(subject.output), expected, atol=1e-5), "JSON gives the same as binary")
    expect(np.allclose(zipped.as_numpy(subject.output), expected, atol=1e-5), "compressed gives the same")


def classified(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading("The three best classes: InferRequestedOutput(…, class_count=3)")
    tensor = subject.tensor(subject.rows(1))
    scores = client.infer(subject.model, [tensor]).as_numpy(subject.output)[0]
    wanted = [triton.InferRequestedOutput(subject.output, class_count=3)]
    best = client.infer(subject.model, [tensor], outputs=wanted).as_numpy(subject.output)[0]
    show([entry.decode() for entry in best])
    places = [int(entry.split(b":")[1]) for entry in best]
    expect(places == list(np.argsort(-scores)[:3]), "value:index:label, the highest first")


def mistakes(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading("Three mistakes, and what a user sees")
    tensor = subject.tensor(subject.rows(1))
    expect("[404]" in refusal(client.infer, "nope", [tensor]), "404 naming the model")
    odd = np.zeros((1, *subject.shape, 2), np.float32)
    expect("unexpected shape for input" in refusal(client.infer, subject.model, [subject.tensor(odd)]), "both shapes")
    wide = subject.tensor(subject.rows(1000))
    expect("batch-size must be <=" in refusal(client.infer, subject.model, [wide]), "the largest batch that is allowed")


def batched(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading(f"{REQUESTS} requests at once: client.async_infer(…)")
    rows = subject.rows(REQUESTS)
    alone = [client.infer(subject.model, [subject.tensor(rows[n : n + 1])]).as_numpy(subject.output) for n in range(4)]
    before = _counts(client, subject)
    pending = [client.async_infer(subject.model, [subject.tensor(rows[n : n + 1])]) for n in range(REQUESTS)]
    answers = [request.get_result().as_numpy(subject.output) for request in pending]
    requests, executions = (now - then for now, then in zip(_counts(client, subject), before, strict=True))
    show(f"{requests} requests in {executions} executions")
    expect(
        all(np.allclose(a, b, atol=1e-4) for a, b in zip(answers, alone, strict=False)), "every caller gets its own answer"
    )
    expect(requests == REQUESTS, "the server counted every request once")


def _counts(client: triton.InferenceServerClient, subject: Subject) -> tuple[int, int]:
    (found,) = client.get_inference_statistics(subject.model)["model_stats"]
    return found["inference_count"], found["execution_count"]


def asynchronous(server: ServedProcess, subject: Subject) -> None:
    heading(f"{REQUESTS} requests at once: tritonclient.http.aio and asyncio.gather")
    rows = subject.rows(REQUESTS, seed=1)

    async def ask() -> list[Array]:
        async with triton_aio.InferenceServerClient(_authority(server)) as client:
            calls = [client.infer(subject.model, [subject.tensor(rows[n : n + 1])]) for n in range(REQUESTS)]
            return [result.as_numpy(subject.output) for result in await asyncio.gather(*calls)]

    began = time.monotonic()
    answers = asyncio.run(ask())
    show(f"{REQUESTS} answers in {time.monotonic() - began:.3f} s")
    with _client(server) as client:
        alone = client.infer(subject.model, [subject.tensor(rows[-1:])]).as_numpy(subject.output)
    expect(np.allclose(answers[-1], alone, atol=1e-4), "the same answers as one by one")


def in_shared_memory(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading("System shared memory: tensors that are not sent at all")
    rows = subject.rows(1)
    expected = client.infer(subject.model, [subject.tensor(rows)]).as_numpy(subject.output)
    key = f"/jitney_demo_{os.getpid()}"
    region = shared_memory.create_shared_memory_region("demo", key, rows.nbytes + expected.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [rows])
        client.register_system_shared_memory("demo", key, rows.nbytes + expected.nbytes)
        show(client.get_system_shared_memory_status())
        source = triton.InferInput(subject.input, list(rows.shape), "FP32")
        source.set_shared_memory("demo", rows.nbytes)
        target = triton.InferRequestedOutput(subject.output)
        target.set_shared_memory("demo", expected.nbytes, offset=rows.nbytes)
        client.infer(subject.model, [source], outputs=[target])
        found = shared_memory.get_contents_as_numpy(region, np.float32, list(expected.shape), rows.nbytes)
        expect(np.allclose(found, expected, atol=1e-5), "the answer is in the client's memory")
        del found
        client.unregister_system_shared_memory("demo")
    finally:
        shared_memory.destroy_shared_memory_region(region)


def controlled(client: triton.InferenceServerClient, subject: Subject) -> None:
    heading(f"client.unload_model('{subject.model}') and client.load_model('{subject.model}')")
    client.unload_model(subject.model)
    text = refusal(client.infer, subject.model, [subject.tensor(subject.rows(1))])
    expect("has no available versions" in text, "an unloaded model says so")
    client.load_model(subject.model)
    expect(client.is_model_ready(subject.model), "load_model returns when the model is ready")


def metrics(server: ServedProcess, subject: Subject) -> None:
    heading(f"$ curl {server.metrics}/metrics | grep {subject.model}")
    text = urllib3.request("GET", f"{server.metrics}/metrics", timeout=30.0).data.decode()
    name = f'nv_inference_request_success{{model="{subject.model}"'
    lines = [line for line in text.splitlines() if line.startswith("nv_inference") and f'model="{subject.model}"' in line]
    show("\n".join(lines[:6]))
    expect(any(line.startswith(name) for line in lines), "Triton's metrics under their names")


# -- all of it -------------------------------------------------------------------------------------------------------------


def _authority(server: ServedProcess) -> str:
    return server.inference.removeprefix("http://")


@contextlib.contextmanager
def _client(server: ServedProcess) -> Iterator[triton.InferenceServerClient]:
    with contextlib.closing(triton.InferenceServerClient(_authority(server), concurrency=REQUESTS)) as client:
        yield client


def run() -> None:
    found = subject()
    heading("Starting the server: jitney serve --model-repository … " + " ".join(found.flags))
    with serving(found.repository, flags=found.flags, echo=True) as server:
        with _client(server) as client:
            for step in (health, described, one_request, classified, mistakes, batched, in_shared_memory, controlled):
                step(client, found)
            asynchronous(server, found)
            if found.others == triton_demo_kit.MODELS:
                triton_demo_kit.steps(server, client)
        metrics(server, found)
        heading("Stopping the server")
        expect(server.stop() == 0, "it drained and ended with status 0")


def main() -> int:
    try:
        run()
    except (NotAsPromised, ServerFailed, InferenceServerException) as error:
        print(f"\nThe demo ended early: {error}", file=sys.stderr)
        return 1
    print("\nEverything above held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
