"""The models of `make bench-gpu`: ResNet and an MLP, each as eager PyTorch, TorchScript and ONNX, and eager with what is fast."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .bench_models import (
    IMAGE,
    MLP_WIDTH,
    RAW_HEADERS,
    Workload,
    mlp_network,
    photograph,
    raw_body,
    save_torchscript,
    write_config,
)
from .resnet import seeded

LARGEST = 128
FORMATS = ("eager", "eager-tuned", "torchscript", "onnx")
#: What makes eager fast on a GPU; answers differ in the third digit.
TUNED = {"channels_last": "true", "autocast": "fp16", "cuda_graphs": "true"}
_PLATFORM = {
    "eager": 'backend: "pytorch" runtime: "model.py"',
    "eager-tuned": 'backend: "pytorch" runtime: "model.py"',
    "torchscript": 'platform: "pytorch_libtorch"',
    "onnx": 'platform: "onnxruntime_onnx"',
}


@dataclass(frozen=True)
class Network:
    """A network as the benchmark serves it. `source`: model.py of the eager form. `images`: takes JPEG, too."""

    name: str
    what: str
    module: nn.Module
    dims: tuple[int, ...]
    outputs: int
    source: str
    images: bool


def network(name: str) -> Network:
    """`mlp`, or `resnet` and its depth. ValueError for anything else."""
    if name == "mlp":
        source = (
            "import jitney.tools.dev.bench_models as models\nfrom torch import nn\n\n\nclass Mlp(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.layers = models.mlp_network()\n\n"
            "    def forward(self, x):\n        return self.layers(x)\n"
        )
        return Network(name, "MLP 512-1024-1024-10", _Layers(mlp_network()), (MLP_WIDTH,), 10, source, images=False)
    if not name.removeprefix("resnet").isdecimal() or not name.startswith("resnet"):
        raise ValueError(f"unknown network '{name}', expected mlp or resnet152 (or another depth)")
    depth = int(name.removeprefix("resnet"))
    source = (
        "import jitney.tools.dev.resnet as definition\n\n\nclass Net(definition.ResNet):\n"
        f"    def __init__(self):\n        super().__init__({depth})\n"
    )
    return Network(name, f"ResNet-{depth}", seeded(depth), (3, IMAGE, IMAGE), 1000, source, images=True)


class _Layers(nn.Module):
    """Names the state as the source's class does."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def build(repository: Path, net: Network, formats: Sequence[str], kind: str, largest: int) -> dict[str, str]:
    """Writes the network in these formats; format -> model's name. `kind`: KIND_GPU or KIND_CPU."""
    names = {}
    for form in formats:
        names[form] = f"{net.name}_{form.replace('-', '_')}"
        file = write_config(repository / names[form], _config(net, form, kind, largest))
        if form == "torchscript":
            save_torchscript(net.module, torch.zeros(2, *net.dims), file)
        elif form == "onnx":
            _save_onnx(net, file.with_suffix(".onnx"))
        else:
            file.with_suffix(".py").write_text(net.source)
            torch.save(net.module.state_dict(), file)
    return names


def _config(net: Network, form: str, kind: str, largest: int) -> str:
    suffix = "__0" if form == "torchscript" else ""
    x, y = f"x{suffix}", f"y{suffix}"
    lines = [
        f"{_PLATFORM[form]} max_batch_size: {largest} dynamic_batching {{ }}",
        f'input [ {{ name: "{x}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, net.dims))} ] }} ]',
        f'output [ {{ name: "{y}" data_type: TYPE_FP32 dims: [ {net.outputs} ] }} ]',
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
    ]
    parameters = ({"codec": "image_classifier"} if net.images else {}) | (TUNED if form == "eager-tuned" else {})
    lines += [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    return "\n".join(lines) + "\n"


def _save_onnx(net: Network, path: Path) -> None:
    with warnings.catch_warnings():
        # the TorchScript exporter is deprecated as a whole; its successor needs onnxscript and is slower
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.module,
            (torch.zeros(2, *net.dims),),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def workloads(net: Network, form: str, model: str, bodies: Path, largest: int) -> list[Workload]:
    """The requests of one model: raw float32, and JPEG where it takes images."""
    bodies.mkdir(exist_ok=True)
    raw = raw_body(bodies / f"{net.name}.bin", *net.dims)
    what = f"{net.what}, {form}"
    found = [
        Workload(f"{net.name} {form}, raw", what, model, f"/v2/models/{model}/infer", raw, largest, RAW_HEADERS, raw=True)
    ]
    if net.images:
        jpeg = shutil.copyfile(photograph(), bodies / "photograph.jpg")
        found.insert(0, Workload(f"{net.name} {form}, JPEG", what, model, f"/predictions/{model}", jpeg, largest))
    return found
