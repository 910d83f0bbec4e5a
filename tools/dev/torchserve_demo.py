"""The page *Batch Inference with TorchServe*, command for command on loopback: `make torchserve-demo`.

Packs `resnet-152-batch_v2` (version 2.0) with `jitney archive`, then runs both flows of the page, through the management API
and through config.properties, with a command `torchserve` that is jitney. Every answer is checked against what the page shows;
the status is 0 only if all of it held. Where a command cannot be the page's own (nothing is downloaded from the network), the
demo says so.
"""

from __future__ import annotations

import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bench.served import taken
from ..steps import NotAsPromised, expect, heading

PORTS = (8080, 8081, 8082)
NAME = "resnet-152-batch_v2"
ARCHIVE = f"{NAME}.mar"
ROOT = Path(__file__).resolve().parents[2]
#: The page's second config.properties; the addresses are the page's first one's, on loopback.
PROPERTIES = """inference_address=http://127.0.0.1:8080
management_address=http://127.0.0.1:8081
load_models=resnet-152-batch_v2.mar
models={\\
  "resnet-152-batch_v2": {\\
    "2.0": {\\
        "defaultVersion": true,\\
        "marName": "resnet-152-batch_v2.mar",\\
        "minWorkers": 1,\\
        "maxWorkers": 1,\\
        "batchSize": 3,\\
        "maxBatchDelay": 5000,\\
        "responseTimeout": 120\\
    }\\
  }\\
}
"""
MODEL = """from resnet import ResNet


class ResNet152(ResNet):
    def __init__(self):
        super().__init__(152)
"""
START_SECONDS = 120


@dataclass(frozen=True)
class Shell:
    """Runs commands in a folder whose `torchserve` and `jitney` are this package, and shows them with their output."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path, "TMPDIR": str(self.folder / "tmp"), "JITNEY_ALLOW_PRIVATE_URLS": "true"}

    def install(self) -> None:
        (self.folder / "tmp").mkdir()
        for name in ("jitney", "torchserve"):
            command = self.folder / "bin" / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m jitney.server.cli "$@"\n')
            command.chmod(0o755)

    def run(self, command: str, *, shown: bool = True, timeout: float = 180.0) -> str:
        """Runs one command line; what it printed. NotAsPromised where it fails."""
        if shown:
            print(f"$ {command}", flush=True)
        with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open as long as a server that detaches itself
            done = subprocess.run(
                shlex.split(command), cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=timeout, check=False,
            )  # fmt: skip
            output.seek(0)
            printed = output.read()
        if shown and printed.strip():
            print("  " + printed.rstrip().replace("\n", "\n  "), flush=True)
        if done.returncode:
            raise NotAsPromised(f"'{command}' ended with status {done.returncode}: {printed.strip()}")
        return printed

    def curl(self, arguments: str, *, shown: bool = True) -> Any:
        """`curl ARGUMENTS`; the JSON that was answered."""
        printed = self.run(f"curl -sS {arguments}", shown=shown)
        try:
            return json.loads(printed)
        except ValueError:
            raise NotAsPromised(f"expected JSON, got: {printed[:200]}") from None


def pack(shell: Shell) -> None:
    """Weights, definition and names, packed as torch-model-archiver packs them."""
    import torch

    from . import resnet

    heading("Packing resnet-152-batch_v2, version 2.0")
    print(
        "  its weights are random, from a fixed seed: answers are nonsense, made at the right speed and of the right shape"
    )
    torch.save(resnet.seeded(152).state_dict(), shell.folder / "resnet152.pth")
    (shell.folder / "model.py").write_text(MODEL)
    shutil.copy(Path(resnet.__file__), shell.folder / "resnet.py")
    shutil.copy(ROOT / "model_repository" / "resnet152" / "index_to_name.json", shell.folder)
    shell.run(
        f"jitney archive --model-name {NAME} --version 2.0 --model-file model.py --serialized-file resnet152.pth "
        "--extra-files resnet.py,index_to_name.json --handler image_classifier --export-path model_store"
    )
    size = (shell.folder / "model_store" / ARCHIVE).stat().st_size
    print(f"  model_store/{ARCHIVE}: {size / 1e6:.0f} MB")


def picture(shell: Shell) -> None:
    import sklearn.datasets

    shutil.copy(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg", shell.folder / "kitten.jpg")
    print("  kitten.jpg: the page downloads a cat; here it is scikit-learn's sample picture under that name")


@contextmanager
def published(folder: Path) -> Iterator[str]:
    """Serves the archives of a folder on loopback; the URL that stands for https://torchserve.pytorch.org."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="published")
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def await_server(shell: Shell, workers: int) -> None:
    """`torchserve --start` returns at once; until the server answers and has so many ready workers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            found = shell.curl(f"http://localhost:8081/models/{NAME}", shown=False)
            ready = [worker for worker in found[0]["workers"] if worker["status"] == "READY"] if workers else []
            if len(ready) >= workers:
                return
        except NotAsPromised:
            pass  # nobody listens yet
        time.sleep(0.2)
    raise NotAsPromised(f"the server was not ready after {START_SECONDS} s")


def ping(shell: Shell) -> None:
    answer = shell.curl("localhost:8080/ping")
    expect(answer == {"status": "Healthy"}, 'the page\'s {"status": "Healthy"}')


def describe(shell: Shell, **expected: Any) -> None:
    """The page's description: its fields with its values; the fields of one worker with values of their kind."""
    answer = shell.curl(f"http://localhost:8081/models/{NAME}")
    expect(isinstance(answer, list) and len(answer) == 1, "an array of one description")
    common = {
        "modelName": NAME,
        "modelVersion": "2.0",
        "runtime": "python",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 3,
    }
    wrong = {key: answer[0].get(key) for key, value in {**common, **expected}.items() if answer[0].get(key) != value}
    expect(not wrong, f"the page's {', '.join({**common, **expected})}" + (f"; got {wrong}" if wrong else ""))
    workers = answer[0]["workers"]
    kinds = {"id": str, "startTime": str, "status": str, "memoryUsage": int, "pid": int, "gpu": bool, "gpuUsage": str}
    fits = all(type(workers[0].get(key)) is kind for key, kind in kinds.items())
    expect(len(workers) == 1 and fits and workers[0]["status"] == "READY", "one worker, READY, with the page's fields")


def predict(shell: Shell) -> float:
    """The page's prediction; the seconds that it took."""
    began = time.monotonic()
    answer = shell.curl(f"http://localhost:8080/predictions/{NAME} -T kitten.jpg")
    seconds = time.monotonic() - began
    values = list(answer.values())
    probabilities = all(isinstance(value, float) and 0 <= value <= 1 for value in values) and sum(values) <= 1.0001
    expect(len(answer) == 5 and probabilities, "five classes with their probabilities")
    expect(values == sorted(values, reverse=True), "the likeliest first")
    print(f"  after {seconds:.2f} s", flush=True)
    return seconds


def through_the_management_api(shell: Shell) -> None:
    heading("Batch inference of Resnet-152 configured with management API")
    print(
        "  (the page's config.properties binds 0.0.0.0, which would need a decision about tokens; the default is loopback)"
    )
    (shell.folder / "empty_store").mkdir()
    shell.run("torchserve --start --model-store empty_store")
    await_server(shell, 0)
    try:
        ping(shell)
        with published(shell.folder / "model_store") as host:
            print(f"  ({host} stands for https://torchserve.pytorch.org/mar_files)")
            query = f"url={host}/{ARCHIVE}&batch_size=3&max_batch_delay=10&initial_workers=1"
            answer = shell.curl(f'-X POST "http://localhost:8081/models?{query}"')
        registered = f'Model "{NAME}" Version: 2.0 registered with 1 initial workers'
        expect(
            answer == {"status": registered}, "TorchServe 0.12's answer; the page's is that of releases that did not wait"
        )
        describe(shell, modelUrl=f"{host}/{ARCHIVE}", maxBatchDelay=10, loadedAtStartup=False)
        picture(shell)
        predict(shell)
    finally:
        stop(shell)


def through_the_configuration(shell: Shell) -> None:
    heading("Batch inference of Resnet-152 configured through config.properties")
    (shell.folder / "config.properties").write_text(PROPERTIES)
    shell.run("cat config.properties")
    shell.run("torchserve --start --model-store model_store --ts-config config.properties")
    await_server(shell, 1)
    try:
        ping(shell)
        describe(shell, modelUrl=ARCHIVE, maxBatchDelay=5000, loadedAtStartup=True)
        alone = predict(shell)
        expect(alone >= 5, "a lone request waits its 5000 ms for two others")
        full_batch(shell)
    finally:
        stop(shell)


def full_batch(shell: Shell) -> None:
    """Three at once fill the batch, which leaves without waiting for the delay."""
    print("  three of these at once:", flush=True)
    arguments = f"http://localhost:8080/predictions/{NAME} -T kitten.jpg"
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda _: shell.curl(arguments, shown=False), range(3)))
    stats = shell.curl(f"http://localhost:8080/v2/models/{NAME}/versions/2.0/stats", shown=False)["model_stats"][0]
    sizes = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats["batch_stats"]}
    expect(all(len(answer) == 5 for answer in answers), "three answers")
    expect(sizes.get(3) == 1, f"from one batch of three (batches by size: {sizes})")


def stop(shell: Shell) -> None:
    printed = shell.run("torchserve --stop --foreground")
    expect(printed == "TorchServe has stopped.\n", "the server has stopped")


def run() -> None:
    if shutil.which("curl") is None:
        raise NotAsPromised("the page's commands need curl, which is not installed")
    busy = [port for port in PORTS if taken(port)]
    if busy:
        raise NotAsPromised(f"port {busy[0]} is taken by another program; the page's commands need {PORTS} on 127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="jitney-torchserve-demo-") as temporary:
        shell = Shell(Path(temporary))
        shell.install()
        pack(shell)
        through_the_management_api(shell)
        through_the_configuration(shell)


def main() -> int:
    try:
        run()
    except (NotAsPromised, subprocess.TimeoutExpired) as error:
        print(f"\nThe demo ended early: {error}", file=sys.stderr)
        return 1
    print("\nEverything above held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
