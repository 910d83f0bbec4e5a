"""What a GPU gets through the server, beside what it can do at best: `make bench-gpu`.

First the card's own ceilings, copies between host and device and the bare forward at batch sizes 1 to 128; then ResNet-152 and an
MLP over HTTP, JPEG and raw float32, as eager PyTorch, TorchScript and ONNX, at rising numbers of connections, with the batch that
the server made of them and the share of time in which the GPU was busy. Prints Markdown with the hardware's name. On a machine
without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ...server.process.cores import gpus, usable_cores
from ..bench.served import serving
from .bench import HEADER, Row, run_round
from .bench_gpu_models import FORMATS, Network, build, network, workloads
from .gpu_busy import watching
from .gpu_ceilings import COPIES, CeilingFailed, measured_copies, measured_forward

NETWORKS = ("resnet152", "mlp")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONNECTIONS = (1, 8, 32, 128, 256)
#: Seconds until a server is ready whose models warm up eight batch sizes.
START_SECONDS = 600.0
_PROBE = "import torch; print('ready' if torch.cuda.is_available() else torch.__version__)"


def obstacle() -> str:
    """Why nothing can be measured here, "" where it can. torch is asked in a process of its own."""
    if not gpus():
        return "this machine has no NVIDIA GPU (nvidia-smi shows none, or CUDA_VISIBLE_DEVICES hides it)"
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"torch cannot be asked for GPUs: {error}"
    said = done.stdout.strip()
    return "" if said == "ready" else f"the installed torch {said} cannot use the GPU; see requirements-gpu.txt"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run. `device` "cuda:0" or "cpu"; `batches` of the bare forward, `connections` of the server; `seconds` of each look."""

    def __init__(self, device: str, batches: Sequence[int], connections: Sequence[int], seconds: float, rounds: int) -> None:
        self.device, self.batches, self.connections = device, list(batches), list(connections)
        self.seconds, self.rounds = seconds, rounds
        self.gpu = int(device.partition(":")[2] or 0) if device.startswith("cuda") else None

    def run(self, folder: Path, names: Sequence[str], formats: Sequence[str]) -> None:
        """Everything, printed as it is found."""
        self._print_copies()
        for name in names:
            net = network(name)
            say(f"building {name} as {', '.join(formats)}")
            repository = folder / name
            kind = "KIND_CPU" if self.gpu is None else "KIND_GPU"
            models = build(repository, net, formats, kind, max(self.batches))
            ceilings = self._ceilings(repository, net, models)
            rows = [row for form in ceilings for row in self._served(repository, net, form, models[form], ceilings[form])]
            _print_served(net, rows)

    # -- without a server -------------------------------------------------------------------------------------------

    def _print_copies(self) -> None:
        found = measured_copies(self.device, min(1.0, self.seconds))
        versions = ", ".join(
            f"{name} {_version(name)}" for name in ("torch", "onnxruntime-gpu", "onnxruntime") if _version(name)
        )
        print(f"{found['device']}; {platform.processor() or platform.machine()}, {usable_cores()} cores; Python ", end="")
        print(f"{platform.python_version()}, {versions}.\n\nCopies between host and device, GB/s:\n")
        print("| bytes | " + " | ".join(_COPIES.values()) + " |\n|---" + "|---" * len(_COPIES) + "|")
        for size in COPIES:
            rates = [found["rates"].get(f"{kind} {size}") for kind in _COPIES]
            print(f"| {size:,} | " + " | ".join("–" if rate is None else f"{rate:.1f}" for rate in rates) + " |")

    def _ceilings(self, repository: Path, net: Network, models: Mapping[str, str]) -> dict[str, dict[int, float]]:
        """Rows/s of each format that runs at all, printed as a table."""
        print(f"\n{net.what}: the bare forward, inputs on the device, rows/s at each batch size:\n")
        print("| | " + " | ".join(map(str, self.batches)) + " |\n|---" + "|---" * len(self.batches) + "|")
        found = {}
        for form, model in models.items():
            say(f"{net.name}, {form}: bare forward")
            try:
                found[form] = measured_forward(repository, model, self.device, self.batches, self.seconds / 2)
            except (CeilingFailed, subprocess.TimeoutExpired) as error:
                print(f"| {form} | left out: {error} |")
                continue
            print(f"| {form} | " + " | ".join(f"{found[form][rows]:,.0f}" for rows in self.batches) + " |", flush=True)
        return found

    # -- with one -----------------------------------------------------------------------------------------------------

    def _served(self, repository: Path, net: Network, form: str, model: str, ceiling: Mapping[int, float]) -> list[Row]:
        table: list[Row] = []
        with serving(repository, flags=["--load-model", model], timeout=START_SECONDS) as server:
            for workload in workloads(net, form, model, repository.parent / "bodies", max(self.batches)):
                rows = {count: Row(workload.name, count) for count in self.connections}
                for number in range(self.rounds):
                    say(f"{workload.name}: round {number + 1} of {self.rounds}")
                    run_round(workload, server, max(ceiling.values()), rows, self.seconds, partial(watching, self.gpu))
                table += rows.values()
        return table


_COPIES = {
    "to pinned": "to the device, page-locked",
    "from pinned": "from it, page-locked",
    "to pageable": "to the device, ordinary memory",
    "from pageable": "from it, ordinary memory",
}


def _print_served(net: Network, rows: Sequence[Row]) -> None:
    print(f"\n{net.what} over HTTP; the ceiling is the bare forward at its best batch size:\n")
    first, second = HEADER.splitlines()
    print(f"{first} GPU busy |\n{second}---|")
    for row in rows:
        busy = f"{sum(row.busy) / len(row.busy):.0%}" if row.busy else "–"
        print(f"{row.line()} {busy} |")
    sys.stdout.flush()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(text: str) -> list[int]:
    numbers = sorted({int(word) for word in text.split(",")})
    if numbers[0] < 1 or numbers[-1] > 4096:
        raise argparse.ArgumentTypeError(f"expected numbers from 1 to 4096, got '{text}'")
    return numbers


def main(argv: list[str] | None = None) -> int:
    """The command; 0 also where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.bench_gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of mlp, resnet18, …, resnet152 (%(default)s)")
    parser.add_argument("--formats", default=",".join(FORMATS), help="%(default)s")
    parser.add_argument("--batches", type=_numbers, default=list(BATCHES), metavar="N,N,…")
    parser.add_argument("--connections", type=_numbers, default=list(CONNECTIONS), metavar="N,N,…")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda:0", help=argparse.SUPPRESS)  # cpu: to see that everything works
    options = parser.parse_args(argv)
    if options.device != "cpu" and (reason := obstacle()):
        print(f"bench-gpu: nothing was measured: {reason}.")
        return 0
    formats = options.formats.split(",")
    if unknown := set(formats) - set(FORMATS):
        parser.error(f"unknown formats {sorted(unknown)}, expected some of {', '.join(FORMATS)}")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    bench = Bench(options.device, options.batches, options.connections, options.seconds, options.rounds)
    with tempfile.TemporaryDirectory(prefix="jitney-bench-gpu-") as folder:
        bench.run(Path(folder), options.networks.split(","), formats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
