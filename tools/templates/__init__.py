"""What `jitney init` writes: for each backend the files of a model that computes y = 2 x + 1, to be replaced by one's own.

All of them take the same request, and answer the same. NAME stands for the model's name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LINEAR = Path(__file__).resolve().parent / "linear.onnx"
#: The row that is asked with, and what comes back for it.
ROW, ANSWER = [1, 2, 3], [3.0, 5.0, 7.0]


@dataclass(frozen=True)
class Template:
    """`files`: path below the model's folder -> content. `script` is run in the folder, and makes the file that is served.

    package  what has to be installed for it, and its extra
    yours    what to replace, said when it is written
    """

    files: Mapping[str, str | bytes]
    package: str
    extra: str
    yours: str
    script: str = ""


_TENSORS = """max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
# What waits when a worker is idle leaves as one batch of at most 32 rows.
dynamic_batching { }
"""

_EAGER = '''"""y = scale * x + shift, with the weights of model.safetensors beside this file."""

import torch


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: a batch, (rows, 3)."""
        return self.scale * x + self.shift
'''

_EXPORT = '''"""Writes 1/model.pt, which is served: python export.py"""

from pathlib import Path

import torch


class Linear(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: a batch, (rows, 3)."""
        return 2.0 * x + 1.0


target = Path(__file__).parent / "1" / "model.pt"
target.parent.mkdir(exist_ok=True)
torch.jit.script(Linear()).save(str(target))
'''

_PYTHON = '''"""y = 2 x + 1 for every request of a batch."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        """Once, when the model is loaded. args["model_config"] is config.pbtxt as JSON."""

    def execute(self, requests):
        """A batch: one response for each request, in their order."""
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            y = pb_utils.Tensor("y", (2 * x + 1).astype(np.float32))
            responses.append(pb_utils.InferenceResponse([y]))
        return responses
'''

_HANDLER = '''"""y = 2 x + 1 for every request of a batch."""


class Handler:
    def initialize(self, context):
        """Once, when a worker starts. context.system_properties["model_dir"] is the folder of the archive's files."""

    def handle(self, data, context):
        """A batch: one answer for each request, in their order. JSON bodies come decoded."""
        answers = []
        for request in data:
            document = request.get("body") or request.get("data")
            answers.append([[2.0 * number + 1.0 for number in row] for row in document["x"]])
        return answers
'''

_YAML = """# How many requests a batch takes, and how long (ms) it waits for them once one is there.
batchSize: 32
maxBatchDelay: 0
minWorkers: 1
maxWorkers: 1
"""


def safetensors(tensors: Mapping[str, list[float]]) -> bytes:
    """A .safetensors file of one-dimensional float32 tensors: the header's length, the header, the numbers (its format 0.3)."""
    head, body = {}, b""
    for name, values in tensors.items():
        packed = struct.pack(f"<{len(values)}f", *values)
        head[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [len(body), len(body) + len(packed)]}
        body += packed
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _config(about: str, backend: str) -> str:
    return f'# {about}\nname: "NAME"\n{backend}\n{_TENSORS}'


TEMPLATES: Mapping[str, Template] = {
    "onnx": Template(
        {
            "config.pbtxt": _config(
                "Inputs and outputs may be left out: they are read from the model's file.", 'platform: "onnxruntime_onnx"'
            ),
            "1/model.onnx": LINEAR.read_bytes(),
        },
        "onnxruntime",
        "onnx",
        "1/model.onnx, and the tensors in config.pbtxt",
    ),
    "pytorch": Template(
        {
            "config.pbtxt": _config("An nn.Module and its weights.", 'backend: "pytorch"\nruntime: "model.py"'),
            "1/model.py": _EAGER,
            "1/model.safetensors": safetensors({"scale": [2.0], "shift": [1.0]}),
        },
        "torch",
        "torch",
        "1/model.py and its weights, and the tensors in config.pbtxt",
    ),
    "torchscript": Template(
        {"config.pbtxt": _config("TorchScript.", 'platform: "pytorch_libtorch"'), "export.py": _EXPORT},
        "torch",
        "torch",
        "export.py, which writes 1/model.pt, and the tensors in config.pbtxt",
        script="export.py",
    ),
    "python": Template(
        {"config.pbtxt": _config("A Python model.", 'backend: "python"'), "1/model.py": _PYTHON},
        "numpy",
        "",
        "1/model.py, and the tensors in config.pbtxt",
    ),
    "handler": Template({"handler.py": _HANDLER, "model-config.yaml": _YAML}, "numpy", "", "handler.py"),
}
