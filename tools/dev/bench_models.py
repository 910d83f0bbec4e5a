"""The benchmark's models, requests and what each of them measures. Weights are seeded: shapes and speed are what matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...backends.torchscript import quiet_jit
from ...server.process.cores import usable_cores
from . import digits
from .resnet import seeded

IMAGE = 224
MLP_WIDTH = 512


@dataclass(frozen=True)
class Workload:
    """One kind of request to one model. `batch`: the full batch; `raw`: the body is the bytes of the model's only input."""

    name: str
    what: str
    model: str
    path: str
    body: Path
    batch: int
    headers: dict[str, str] = field(default_factory=dict)
    raw: bool = False


#: A request whose whole body is the bytes of the model's only input.
RAW_HEADERS = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}


def write_config(folder: Path, text: str) -> Path:
    """A model's folder with its configuration; where its TorchScript file goes."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text)
    return folder / "1" / "model.pt"


def save_torchscript(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    with torch.inference_mode(), quiet_jit():
        torch.jit.save(torch.jit.trace(model.eval(), example), str(path))  # type: ignore[no-untyped-call]


def mlp_network() -> nn.Sequential:
    """512-1024-1024-10, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(MLP_WIDTH, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
        ).eval()


def _mlp(repository: Path, bodies: Path) -> Workload:
    text = f"""platform: "pytorch_libtorch" max_batch_size: 32 dynamic_batching {{ }}
input [ {{ name: "x__0" data_type: TYPE_FP32 dims: [ {MLP_WIDTH} ] }} ]
output [ {{ name: "y__0" data_type: TYPE_FP32 dims: [ 10 ] }} ]
instance_group [ {{ count: 1 }} ]
parameters {{ key: "INTRA_OP_THREAD_COUNT" value {{ string_value: "1" }} }}
"""
    save_torchscript(mlp_network(), torch.zeros(2, MLP_WIDTH), write_config(repository / "mlp", text))
    body = raw_body(bodies / "mlp.bin", MLP_WIDTH)
    what = "MLP 512-1024-1024-10 (TorchScript), raw float32 in"
    return Workload("mlp", what, "mlp", "/v2/models/mlp/infer", body, 32, RAW_HEADERS, raw=True)


def _resnet(depth: int, shared: bool = False) -> Callable[[Path, Path], Workload]:
    """`shared`: one worker with all cores, where two copies of the weights would push each other out of the caches."""

    def build(repository: Path, bodies: Path) -> Workload:
        workers, threads = (1, usable_cores()) if shared else (usable_cores(), 1)
        name = f"resnet{depth}"
        text = f"""platform: "pytorch_libtorch" max_batch_size: 8 dynamic_batching {{ }}
input [ {{ name: "image__0" data_type: TYPE_FP32 dims: [ 3, {IMAGE}, {IMAGE} ] }} ]
output [ {{ name: "logits__0" data_type: TYPE_FP32 dims: [ 1000 ] }} ]
instance_group [ {{ count: {workers} }} ]
parameters {{ key: "codec" value {{ string_value: "image_classifier" }} }}
"""
        save_torchscript(seeded(depth), torch.zeros(2, 3, IMAGE, IMAGE), write_config(repository / name, text))
        body = photograph()
        what = f"ResNet-{depth} (TorchScript), JPEG 640x427 in, workers × threads {workers} × {threads}"
        return Workload(name, what, name, f"/predictions/{name}", body, 8)

    return build


def raw_body(file: Path, *dims: int) -> Path:
    """Seeded float32 numbers."""
    file.write_bytes(np.random.default_rng(0).standard_normal(dims, dtype=np.float32).tobytes())
    return file


def photograph() -> Path:
    """A JPEG of 640 x 427."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def _digits(repository: Path, bodies: Path) -> Workload:
    from . import build_models

    if build_models.main(["--repository", str(repository), "--models", "digits_onnx"]):
        raise RuntimeError("digits_onnx could not be built")
    body = bodies / "digit.png"
    body.write_bytes(digits.held_out()[0][0])
    what = "small CNN (ONNX Runtime), PNG of a digit in"
    return Workload("digits", what, "digits_onnx", "/predictions/digits_onnx", body, 32)


BUILDERS: dict[str, Callable[[Path, Path], Workload]] = {
    "mlp": _mlp,
    "digits": _digits,
    "resnet18": _resnet(18),
    "resnet152": _resnet(152, shared=True),
}
NAMES = tuple(BUILDERS)


def build(repository: Path, names: Sequence[str]) -> list[Workload]:
    """Builds the named workloads' models (all of them where none is named) into a new model repository."""
    unknown = set(names) - set(BUILDERS)
    if unknown:
        raise ValueError(f"unknown workloads {sorted(unknown)}, expected some of {', '.join(NAMES)}")
    repository.mkdir(parents=True)
    bodies = repository.parent / "bodies"
    bodies.mkdir()
    return [BUILDERS[name](repository, bodies) for name in (names or NAMES)]
