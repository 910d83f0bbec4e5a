"""Images as bytes and tensors as floats on one model, through the data plane and a real worker."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitney.codecs.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize
from jitney.core.errors import InvalidTensor
from jitney.core.request import Part, Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.plane import answers
from jitney.tests.fakes.serving import LIMIT_S, serving, write_model

CONFIG = """backend: "pytorch" runtime: "model.py" max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 500000 }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 48 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "codec" value { string_value: "image_classifier" } }
parameters { key: "resize" value { string_value: "0" } }
parameters { key: "crop" value { string_value: "4" } }
parameters { key: "softmax" value { string_value: "false" } }
parameters { key: "topk" value { string_value: "48" } }
"""
SOURCE = "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.flatten(1).clone()\n"


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (4, 4, 3), dtype=np.uint8))


def test_a_batch_of_both_gives_each_its_own_answer(tmp_path: Path, image: Image.Image) -> None:
    write_model(tmp_path, "seer", CONFIG, SOURCE)
    png = io.BytesIO()
    image.save(png, "PNG")
    normal = Normalize(IMAGENET_MEAN, IMAGENET_STD)(image)
    with serving(tmp_path, "seer") as server:
        plane = server.dataplane
        floats = [np.random.default_rng(seed).normal(size=(1, 3, 4, 4)).astype(np.float32) for seed in range(3)]
        calls = []
        for array in floats:
            calls.append(plane.infer("seer", None, Request(tensors=[Tensor.from_numpy("x", array)])))
            calls.append(plane.predict("seer", None, Request(parts=[Part("body", png.getvalue())])))
        asked = [next(iter(answers(call, LIMIT_S))) for call in calls]
        (statistics,) = plane.statistics("seer")
        for array, response in zip(floats, asked[::2], strict=True):
            np.testing.assert_array_equal(response.tensors[0].numpy(), array.reshape(1, -1))
        for response in asked[1::2]:
            values = json.loads(bytes(response.body or b""))
            got = np.array([values[str(index)] for index in range(48)], np.float32)
            np.testing.assert_allclose(got, normal.reshape(-1), rtol=0, atol=1e-6)
        assert (statistics.inference_count, statistics.execution_count) == (6, 1)


def test_clients_send_the_declared_datatype(tmp_path: Path) -> None:
    write_model(tmp_path, "seer", CONFIG, SOURCE)
    with serving(tmp_path, "seer") as server:
        raw = Tensor("x", "UINT8", (1, 3, 4, 4), bytes(48))
        with pytest.raises(InvalidTensor, match="data-type is 'UINT8', but model 'seer' expects 'FP32'"):
            server.dataplane.infer("seer", None, Request(tensors=[raw]))
