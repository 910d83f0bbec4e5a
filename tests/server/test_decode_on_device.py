"""Pictures that a real worker decodes on a card that is made of the CPU's memory: data plane, lanes, batches, answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jitney.core.errors import ModelFailed
from jitney.core.request import Part, Request
from jitney.core.tensor import Tensor
from jitney.tests.codecs.test_jpeg import INPUTS, saved
from jitney.tests.fakes.card import machine_with_a_card
from jitney.tests.fakes.plane import answers
from jitney.tests.fakes.serving import LIMIT_S, serving, write_model

CONFIG = """backend: "pytorch" runtime: "model.py" max_batch_size: 8
dynamic_batching {{ max_queue_delay_microseconds: 500000 }}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 3, 24, 24 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 1728 ] }} ]
instance_group [ {{ count: 1 kind: KIND_GPU }} ]
parameters {{ key: "codec" value {{ string_value: "image_classifier" }} }}
parameters {{ key: "decode" value {{ string_value: "{decode}" }} }}
parameters {{ key: "resize" value {{ string_value: "30" }} }}
parameters {{ key: "crop" value {{ string_value: "24" }} }}
parameters {{ key: "softmax" value {{ string_value: "false" }} }}
parameters {{ key: "topk" value {{ string_value: "1728" }} }}
"""
SOURCE = "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.flatten(1).clone()\n"
PILLOW = """
from jitney.backends import device_decode
from jitney.tests.backends.test_device_decode import by_pillow
device_decode.nvjpeg = lambda device: lambda pictures: [picture.to(device) for picture in by_pillow(pictures)]
"""


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with machine_with_a_card(tmp_path, monkeypatch, PILLOW):
        yield


def test_pictures_of_any_kind_and_tensors_in_one_queue(tmp_path: Path, card: None) -> None:
    """Each gets what the model that is decoded on the host gives it, to one step of a pixel, and a picture that nothing reads the
    text that the codec has for it."""
    models = tmp_path / "models"
    write_model(models, "card", CONFIG.format(decode="device"), SOURCE)
    write_model(models, "host", CONFIG.format(decode="host"), SOURCE)
    photo = (INPUTS / "dog.jpg").read_bytes()
    parts = [
        Part("body", photo),
        Part("body", base64.b64encode(photo), "text/plain"),
        Part("body", (INPUTS / "kitten.jpg").read_bytes()),
        Part("body", saved("PNG")),
    ]
    floats = np.random.default_rng(0).normal(size=(1, 3, 24, 24)).astype(np.float32)
    with serving(models, "card", "host") as server:
        plane = server.dataplane

        def predict(model: str, part: Part) -> dict[str, float]:
            (response,) = answers(plane.predict(model, None, Request(parts=[part])), LIMIT_S)
            found: dict[str, float] = json.loads(bytes(response.body or b""))
            return found

        sent = [plane.predict("card", None, Request(parts=[part])) for part in parts]
        sent.append(plane.infer("card", None, Request(tensors=[Tensor.from_numpy("x", floats)])))
        broken = plane.predict("card", None, Request(parts=[Part("body", photo[:5000])]))
        got = [next(iter(answers(call, LIMIT_S))) for call in sent]
        (statistics,) = plane.statistics("card")
        for part, response in zip(parts, got[:-1], strict=True):
            values, expected = json.loads(bytes(response.body or b"")), predict("host", part)
            assert max(abs(values[str(at)] - expected[str(at)]) for at in range(1728)) <= 1.001 / 255 / 0.224
        np.testing.assert_array_equal(got[-1].tensors[0].numpy(), floats.reshape(1, -1))
        with pytest.raises(ModelFailed, match="cannot decode the image: image file is truncated") as raised:
            list(answers(broken, LIMIT_S))
        assert raised.value.code == "INVALID_ARG"
        assert statistics.execution_count == 1
