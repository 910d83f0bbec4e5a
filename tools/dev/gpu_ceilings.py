"""What a device can do at best, without a server: how fast bytes reach it, and how many rows a model makes of them there.

`python -m jitney.tools.dev.gpu_ceilings copies --device cuda:0` prints GB/s of copies between host and device as JSON;
`… forward REPOSITORY MODEL --device cuda:0` prints rows/s at each batch size with inputs that lie on the device already. Each is
a process of its own, so that the device's memory is free again. The device may be "cpu".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import factory
from ...backends.base import Backend
from ...backends.stacking import Array
from ...core.model_config import ModelConfig
from ...core.request import Instance
from ...core.tensor import NUMPY_DTYPES
from ...server.process.cores import usable_cores
from ...server.repository.triton.repository import TritonRepository
from ..bench.batch_time import Alone

#: Bytes of a copy: one picture, a batch of 32, a batch of 128 as float32.
COPIES = (602_112, 32 * 602_112, 128 * 602_112)
#: Calls between two looks at the clock, where calls return before the device is done.
BURST = 8
TIMEOUT = 600.0


class CeilingFailed(RuntimeError):
    """The measuring process failed; the text is its last line."""


def copies(device: str, seconds: float) -> dict[str, Any]:
    """The device's name and GB/s of each size, from and to page-locked and ordinary memory (on CPU: ordinary memory only)."""
    import torch

    target = torch.device(device)
    on_gpu = target.type == "cuda"
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(target) if on_gpu else "cpu", "rates": {}}
    for size in COPIES:
        there = torch.empty(size, dtype=torch.uint8, device=target)
        for kind in ("pinned", "pageable") if on_gpu else ("pageable",):
            here = torch.empty(size, dtype=torch.uint8, pin_memory=kind == "pinned").fill_(1)
            for name, to, source in (("to", there, here), ("from", here, there)):
                each = _seconds_each(partial(to.copy_, source, non_blocking=True), _waiter(target), seconds)
                found["rates"][f"{name} {kind} {size}"] = size / each / 1e9
    return found


def forward(config: ModelConfig, device: str, batches: Sequence[int], seconds: float) -> dict[int, float]:
    """Rows per second of the model at each batch size."""
    kind, _, index = device.partition(":")
    gpu = int(index or 0) if kind == "cuda" else None
    backend = factory.create(config)
    backend.host = Alone()
    backend.load(config, Instance("ceiling", "KIND_CPU" if gpu is None else "KIND_GPU", gpu, usable_cores()))
    rates = {}
    for rows in batches:
        call, wait = _calls(backend, config, rows, gpu)
        rates[rows] = rows / _seconds_each(call, wait, seconds)
    return rates


def _calls(
    backend: Backend, config: ModelConfig, rows: int, gpu: int | None
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What runs one batch of seeded numbers on the device, and what waits until it is done."""
    rng = np.random.default_rng(0)
    inputs = {
        spec.name: rng.standard_normal((rows, *spec.dims)).astype(NUMPY_DTYPES[spec.datatype]) for spec in config.inputs
    }
    if config.backend == "onnxruntime":
        return _onnx_call(backend, config, inputs, gpu), lambda: None
    return _torch_call(backend, inputs)


def _torch_call(backend: Any, inputs: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], None]]:
    import torch

    tensors = {name: torch.from_numpy(values).to(backend.device) for name, values in inputs.items()}
    if backend.channels_last:
        tensors = {
            name: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
            for name, value in tensors.items()
        }
    return lambda: backend.compute(tensors), _waiter(backend.device)


def _onnx_call(backend: Any, config: ModelConfig, inputs: dict[str, Any], gpu: int | None) -> Callable[[], Any]:
    from ...backends.onnx_binding import Binding

    place = ("cpu", 0) if gpu is None else ("cuda", gpu)
    arrays = {spec.name: Array(spec.datatype, inputs[spec.name]) for spec in config.inputs}
    binding = backend.binding or Binding(backend.session, [spec.name for spec in config.outputs], place)
    call: Callable[[], Any] = binding.again(arrays)
    return call


def _waiter(device: Any) -> Callable[[], None]:
    import torch

    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def _seconds_each(call: Callable[[], Any], wait: Callable[[], None], seconds: float) -> float:
    """Seconds of one call, over at least one burst, after three that do not count."""
    for _ in range(3):
        call()
    wait()
    calls, burst, began = 0, 1, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not calls:
        for _ in range(burst):
            call()
        wait()
        calls, burst = calls + burst, BURST if calls else 1
    return elapsed / calls


# -- processes -----------------------------------------------------------------------------------------------------------


def measured_copies(device: str, seconds: float) -> dict[str, Any]:
    """`copies` in a process of its own."""
    answer: dict[str, Any] = _run(["copies", "--device", device, "--seconds", str(seconds)])
    return answer


def measured_forward(repository: Path, model: str, device: str, batches: Sequence[int], seconds: float) -> dict[int, float]:
    """`forward` in a process of its own."""
    sizes = ",".join(map(str, batches))
    arguments = ["forward", str(repository), model, "--device", device, "--batches", sizes, "--seconds", str(seconds)]
    return {int(rows): float(rate) for rows, rate in _run(arguments).items()}


def _run(arguments: Sequence[str]) -> Any:
    command = [sys.executable, "-m", "jitney.tools.dev.gpu_ceilings", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise CeilingFailed(lines[-1] if lines else f"ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.gpu_ceilings", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("copies", "forward"))
    parser.add_argument("repository", type=Path, nargs="?")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args(argv)
    if options.what == "copies":
        print(json.dumps(copies(options.device, options.seconds)))
        return 0
    if options.model is None:
        parser.error("forward needs a repository and a model")
    config = TritonRepository([options.repository]).read(options.model)[-1]
    print(json.dumps(forward(config, options.device, [int(n) for n in options.batches.split(",")], options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
