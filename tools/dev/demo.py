"""The main job on real input, each step as a command with its answer: `make demo`.

Builds the shipped models, starts the server as its own process on the default ports, sends it what a newcomer would, checks
every answer, and ends with status 0 only if all of it held.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as tritonclient
import urllib3

from ...codecs import create as create_codec
from ...core.request import Part
from ..bench.served import ServedProcess, ServerFailed, serving, taken
from ..steps import NotAsPromised, expect, heading
from . import build_models, digits

PORTS = (8080, 8081, 8082)
DIGITS = ("digits_eager", "digits_torchscript", "digits_onnx")
CLIENTS = 64


def curl(url: str, option: str, value: str) -> tuple[int, str]:
    """Shows `curl URL -T FILE` or `curl URL -d @FILE` and runs it (itself where there is no curl); status and body."""
    print("$ curl " + " ".join(shlex.quote(argument) for argument in (url, option, value)), flush=True)
    status, body = _with_curl(url, option, value) if shutil.which("curl") else _without_curl(url, option, value)
    print("  " + body.rstrip().replace("\n", "\n  ") + f"   [{status}]", flush=True)
    return status, body


def _with_curl(url: str, option: str, value: str) -> tuple[int, str]:
    command = ["curl", "-sS", "-w", "\n%{http_code}", url, option, value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise NotAsPromised(f"curl answered: {done.stderr.strip()}")
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def _without_curl(url: str, option: str, value: str) -> tuple[int, str]:
    method = {"-T": "PUT", "-d": "POST"}[option]
    reply = urllib3.request(method, url, body=Path(value.removeprefix("@")).read_bytes(), timeout=120.0, retries=False)
    return reply.status, reply.data.decode()


def one_digit(server: ServedProcess, folder: Path, image: bytes, label: int) -> None:
    heading(f"A handwritten {label} through curl")
    file = folder / "digit.png"
    file.write_bytes(image)
    status, body = curl(f"{server.inference}/predictions/digits_onnx", "-T", str(file))
    answer = json.loads(body)
    expect(status == 200 and len(answer) == 5, "five classes with their probabilities")
    expect(next(iter(answer)) == str(label), f"the first is {label}")


def three_backends(server: ServedProcess, image: bytes) -> None:
    heading("The same image through three backends, with tritonclient.http (binary tensors)")
    client = tritonclient.InferenceServerClient(server.inference.removeprefix("http://"))
    pixels = _decoded(client, image)
    answers = []
    for model in DIGITS:
        tensor = tritonclient.InferInput("image", list(pixels.shape), "FP32")
        tensor.set_data_from_numpy(pixels)
        output = client.infer(model, [tensor]).as_numpy("logits")
        print(f"  {model:20} {np.array2string(output[0], precision=3, suppress_small=True)}", flush=True)
        answers.append(output)
    client.close()
    spread = max(float(np.abs(answers[0] - other).max()) for other in answers[1:])
    expect(spread < 1e-4, f"they agree to 1e-4 (largest difference {spread:.1e})")


def _decoded(client: tritonclient.InferenceServerClient, image: bytes) -> np.ndarray[Any, Any]:
    """The image as the model's tensor, decoded by the codec that the model's own configuration names."""
    config = client.get_model_config("digits_onnx")
    return create_codec(digits.codec_config(config)).decode([Part("body", image)], {})[0].numpy()


def whole_split(server: ServedProcess, images: Sequence[tuple[bytes, int]]) -> None:
    heading(f"All {len(images)} held-out images from {CLIENTS} concurrent clients")
    before = _batches(server)
    pool = urllib3.PoolManager(maxsize=CLIENTS, block=True)

    def ask(item: tuple[bytes, int]) -> bool:
        reply = pool.request("POST", f"{server.inference}/predictions/digits_onnx", body=item[0], timeout=60.0)
        if reply.status != 200:
            raise NotAsPromised(f"status {reply.status}: {reply.data.decode()}")
        best: str = next(iter(json.loads(reply.data)))
        return best == str(item[1])

    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        right = sum(clients.map(ask, images))
    seconds = time.monotonic() - began
    accuracy = right / len(images)
    print(f"  {right} of {len(images)} right in {seconds:.2f} s: {len(images) / seconds:.0f} requests/s", flush=True)
    histogram = {size: count - before.get(size, 0) for size, count in _batches(server).items()}
    _show(histogram)
    rows = sum(size * count for size, count in histogram.items())
    mean = rows / max(1, sum(histogram.values()))
    expect(accuracy >= 0.97, f"accuracy at least 97 % ({accuracy:.1%})")
    expect(rows == len(images), "the server counted every image once")
    expect(mean > 1.5, f"batches fill: {mean:.1f} images in a batch on average")


def _batches(server: ServedProcess) -> dict[int, int]:
    """Executions of digits_onnx by batch size, as the server reports them."""
    stats = server.get_json("/v2/models/digits_onnx/stats")["model_stats"][0]
    return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats["batch_stats"]}


def _show(histogram: dict[int, int]) -> None:
    print("  batch size   batches   (from /v2/models/digits_onnx/stats)", flush=True)
    widest = max(histogram.values(), default=1)
    for size, count in sorted(histogram.items()):
        if count:
            print(f"  {size:10}   {count:7}   {'#' * max(1, round(40 * count / widest))}", flush=True)


def photograph(server: ServedProcess) -> None:
    import sklearn.datasets

    heading("A photograph through ResNet-152")
    file = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    status, body = curl(f"{server.inference}/predictions/resnet152", "-T", str(file))
    expect(status == 200 and len(json.loads(body)) == 5, "five classes with their probabilities")


def mistakes(server: ServedProcess, folder: Path) -> None:
    heading("Three mistakes, and what a user sees")
    text = folder / "notes.txt"
    text.write_text("this is no image\n")
    status, body = curl(f"{server.inference}/predictions/digit", "-T", str(folder / "digit.png"))
    expect(status == 404 and "digit" in body, "404 naming the model")
    wrong = {"inputs": [{"name": "image", "shape": [1, 1, 9, 9], "datatype": "FP32", "data": [0.0] * 81}]}
    (folder / "wrong.json").write_text(json.dumps(wrong))
    status, body = curl(f"{server.inference}/v2/models/digits_onnx/infer", "-d", f"@{folder / 'wrong.json'}")
    expect(status == 400 and "image" in body and "[1,1,9,9]" in body, "400 naming the input and both shapes")
    status, body = curl(f"{server.inference}/predictions/digits_onnx", "-T", str(text))
    expect(status == 400 and "image" in body, "400 saying that it is no image")


def run() -> None:
    busy = [port for port in PORTS if taken(port)]
    if busy:
        raise NotAsPromised(f"port {busy[0]} is taken by another program; the demo needs {PORTS} on 127.0.0.1")
    repository = Path(__file__).resolve().parents[2] / "model_repository"
    heading("Building the models")
    if build_models.main(["--repository", str(repository)]):
        raise NotAsPromised("the models could not be built")
    images = digits.held_out()
    heading("Starting the server: jitney serve --model-repository model_repository")
    with (
        tempfile.TemporaryDirectory(prefix="jitney-demo-") as temporary,
        serving(repository, ports=PORTS, echo=True) as server,
    ):
        one_digit(server, Path(temporary), *images[0])
        three_backends(server, images[0][0])
        whole_split(server, images)
        photograph(server)
        mistakes(server, Path(temporary))
        heading("Stopping the server")
        expect(server.stop() == 0, "it drained and ended with status 0")


def main() -> int:
    try:
        run()
    except (NotAsPromised, ServerFailed) as error:
        print(f"\nThe demo ended early: {error}", file=sys.stderr)
        return 1
    print("\nEverything above held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
