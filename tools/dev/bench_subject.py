"""jitney as the server under test of the side-by-side bench of inference servers, on the bench's own models.

    JITNEY_CMD='.venv/bin/python -m jitney.tools.dev.bench_subject' ./bench.py --check --peers subject

peer `subject`     TorchServe's paths: the bench's handler for TorchServe, unchanged, archived and served from a model store
peer `subject-v2`  KServe v2: a Python model and a TorchScript one, in a model repository

Set up as a user would: batches as large as the peers' (32, or 8 images), one worker with the bench's number of threads, and no
delay declared, so none waits. `--http-server`, `--workers`, `--delay` and more change that. The bench's environment says what to
serve and where (PEER_WORKLOAD, PEER_THREADS, PORT, BENCH_RUN, BENCH_COMMON); the server replaces this process.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ..archive import main as archive

NOOP = """import numpy as np
import peercommon
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        texts = [pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[:, 0] for request in requests]
        peercommon.count(sum(map(len, texts)))
        lengths = [np.array([[len(text)] for text in batch], np.int64) for batch in texts]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("n", length)]) for length in lengths]
"""

CONFIGS = {
    "noop": """backend: "python" max_batch_size: 32
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "n" data_type: TYPE_INT64 dims: [ 1 ] } ]
""",
    "mlp": """platform: "pytorch_libtorch" max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 512 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 10 ] } ]
""",
}


def model_store(folder: Path, model: str, delay_ms: int, workers: int) -> list[str]:
    """A model store with the bench's TorchServe handler in it; the server's options to serve it."""
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    handler = Path(os.environ["BENCH_COMMON"]).parent / "peers" / "torchserve" / "handler.py"
    config = folder / "model-config.yaml"
    batch = 8 if model == "resnet" else 32
    config.write_text(
        f"minWorkers: {workers}\nmaxWorkers: {workers}\n"
        f"batchSize: {batch}\nmaxBatchDelay: {delay_ms}\nresponseTimeout: 120\njobQueueSize: 1000\n"
    )
    options = ["--model-name", model, "--version", "1.0", "--handler", str(handler), "--config-file", str(config)]
    if archive([*options, "--export-path", str(store), "--force"]):
        raise SystemExit("the archive could not be made")
    return [f"model_store={store}", f"load_models={model}.mar"]


def model_repository(folder: Path, model: str, delay_ms: int, workers: int) -> list[str]:
    """A model repository with one model in it; the server's options to serve it."""
    repository = folder / "models"
    shutil.rmtree(repository, ignore_errors=True)
    version = repository / model / "1"
    version.mkdir(parents=True)
    delay = f"max_queue_delay_microseconds: {1000 * delay_ms}"
    threads = (
        f'parameters {{ key: "INTRA_OP_THREAD_COUNT" value {{ string_value: "{os.environ.get("PEER_THREADS", "1")}" }} }}'
    )
    text = f"{CONFIGS[model]}dynamic_batching {{ {delay} }}\ninstance_group [ {{ count: {workers} }} ]\n{threads}\n"
    (repository / model / "config.pbtxt").write_text(text)
    if model == "noop":
        (version / "model.py").write_text(NOOP)
    else:
        _save_mlp(version / "model.pt")
    return [f"model_repository={repository}"]


def _save_mlp(file: Path) -> None:
    import torch

    from ...backends.torchscript import quiet_jit

    common: Any = importlib.import_module("peercommon")
    with torch.inference_mode(), quiet_jit():
        torch.jit.save(torch.jit.trace(common.build_mlp(), torch.zeros(2, common.DIM)), str(file))  # type: ignore[no-untyped-call]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.bench_subject", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--v2", action="store_true", help="a model repository, for peer subject-v2")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the model")
    parser.add_argument("--front-ends", type=int, default=1)
    parser.add_argument("--delay", type=int, default=0, help="milliseconds that a batch may wait for more")
    options = parser.parse_args(argv)
    folder, port = Path(os.environ["BENCH_RUN"]), int(os.environ["PORT"])
    prepare = model_repository if options.v2 else model_store
    lines = prepare(folder, os.environ["PEER_WORKLOAD"], options.delay, options.workers)
    apis = ("inference", "management", "metrics")
    lines += [f"{api}_address=http://127.0.0.1:{port + number}" for number, api in enumerate(apis)]
    lines += [f"front_ends={options.front_ends}"]
    config = folder / "config.properties"
    config.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "jitney.server.cli", "serve", "--config", str(config)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
