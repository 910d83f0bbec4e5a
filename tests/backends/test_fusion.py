"""Folding BatchNorm: models answer as before with fewer layers, or are refused with the reason."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jitney.backends import eager, fusion
from jitney.backends.options import CannotLoad
from jitney.backends.torchscript import quiet_jit
from jitney.backends.warmup import WarmupFailed
from jitney.core.model_config import ModelConfig, Warmup, WarmupInput
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

NETS = {
    "conv1d": ("nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU()", (4, 9)),
    "conv2d": ("nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()", (4, 9, 9)),
    "grouped": ("nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8, affine=False)", (4, 9, 9)),
    "conv3d": ("nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6)", (4, 5, 5, 5)),
    "transposed": ("nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)", (4, 5, 5)),
    "linear": ("nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3, bias=False), nn.BatchNorm1d(3)", (7,)),
}


def write(folder: Path, body: str) -> None:
    """model.py with the class Net, and weights with statistics that are no zeros and ones."""
    (folder / "model.py").write_text("import torch\nfrom torch import nn\n\n" + textwrap.dedent(body))
    net = eager.build(folder / "model.py", "fusion_test", "Net")
    torch.manual_seed(2)
    for layer in net.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            assert layer.running_var is not None
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.3, 3)
            if layer.affine:
                torch.nn.init.uniform_(layer.weight, 0.5, 2)
                torch.nn.init.uniform_(layer.bias, -1, 1)
    torch.save(net.state_dict(), folder / "model.pt")


def sequence(layers: str) -> str:
    return f"class Net(nn.Sequential):\n    def __init__(self):\n        super().__init__({layers})\n"


def target(folder: Path, dims: Sequence[int], rows: int = 8, **fields: Any) -> ModelConfig:
    parameters = {"fuse": "true"} | fields.pop("parameters", {})
    inputs = fields.pop("inputs", [spec("x", *dims)])
    datatype = fields.pop("datatype", "FP32")
    outputs = [spec("y", *[-1] * fields.pop("rank", len(dims)), datatype=datatype)]
    return config(folder, fields.pop("backend", "eager"), inputs, outputs, rows, parameters=parameters, **fields)


def answer(model: ModelConfig, dims: Sequence[int]) -> tuple[Any, Any]:
    """The loaded backend, and what it answers to five rows."""
    backend = loaded(model)
    x = np.random.default_rng(5).normal(size=(5, *dims)).astype(np.float32)
    return backend, arrays(answers(backend, [request(x=x)])[0])["y"]


def norms(module: Any) -> int:
    return sum(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in module.modules())


@pytest.mark.parametrize("name", NETS)
def test_an_eager_model_answers_as_before_without_its_norms(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    layers, dims = NETS[name]
    write(tmp_path, sequence(layers))
    plain, expected = answer(target(tmp_path, dims, parameters={"fuse": "false"}), dims)
    with caplog.at_level(logging.INFO):
        backend, got = answer(target(tmp_path, dims), dims)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert norms(backend.module) == 0 < norms(plain.module)
    said = [
        record.getMessage() for record in caplog.records if "fold" in record.getMessage() or "fused" in record.getMessage()
    ]
    assert said[0] == f"model 'm': {norms(plain.module)} BatchNorm layers are folded into the layers before them"
    assert said[1].startswith("model 'm': fused, outputs differ by ")


@pytest.mark.parametrize("extra", [{}, {"optimize_for_inference": "true"}, {"channels_last": "true"}], ids=str)
def test_a_torchscript_model_answers_as_before_without_its_norms(tmp_path: Path, extra: dict[str, str]) -> None:
    layers, dims = NETS["conv2d"]
    write(tmp_path, sequence(layers))
    net = eager.build(tmp_path / "model.py", "fusion_script", "Net")
    eager.load_weights(net, tmp_path)
    with quiet_jit():
        torch.jit.script(net.eval()).save(str(tmp_path / "model.pt"))  # type: ignore[no-untyped-call]
    plain, expected = answer(target(tmp_path, dims, backend="torchscript", parameters={"fuse": "false"}), dims)
    backend, got = answer(target(tmp_path, dims, backend="torchscript", parameters=extra), dims)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert (fusion.norms_of(plain.module), fusion.norms_of(backend.module)) == (1, 0)


LEFT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = nn.BatchNorm2d(3)
        self.folded, self.norm0 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.norm1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.seen, self.norm2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.hooked, self.norm3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.hooked.register_forward_hook(lambda layer, given, found: found.clamp(min=-0.1))
        self.normed, self.norm4 = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)
        self.shared = nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.norm0(self.folded(self.before(x)))
        x = self.twice(self.norm1(self.twice(x)))
        seen = self.seen(x)
        x = self.norm2(seen) * seen.sigmoid()
        x = self.norm4(self.normed(self.norm3(self.hooked(x))))
        return self.shared(self.last(self.shared(x)))
"""


def test_only_what_can_be_folded_is(tmp_path: Path) -> None:
    """Norms that stand first, behind a layer that is called twice or seen by others, one with a hook or a parametrization, and
    norms that are called twice stay."""
    write(tmp_path, LEFT)
    _, expected = answer(target(tmp_path, (3, 4, 4), parameters={"fuse": "false"}), (3, 4, 4))
    backend, got = answer(target(tmp_path, (3, 4, 4)), (3, 4, 4))
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6 * np.abs(expected).max())
    left = {name for name, layer in backend.module.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    assert left == {"before", "norm1", "norm2", "norm3", "norm4", "shared"}


def refusal(model: ModelConfig) -> str:
    with pytest.raises(CannotLoad) as raised:
        loaded(model)
    text = str(raised.value)
    assert text.startswith("parameter fuse: ")
    assert text.endswith("; set fuse to false")
    return text


CONV = "self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3{options})"
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        {layers}

    {more}
    def forward(self, x{arguments}):
        {first}
        return self.norm(self.conv(x))
"""


def net(options: str = "", more: str = "", arguments: str = "", first: str = "pass") -> str:
    return NET.format(layers=CONV.format(options=options), more=more, arguments=arguments, first=first)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            net(first="x = x if x.sum() > 0 else -x"),
            "Net cannot be traced by torch.fx, which runs forward() once without values",
        ),
        (net(first="x = x * len(x)"), "cannot be traced"),
        (net(options=", track_running_stats=False"), "layer 'norm' keeps no running statistics"),
        (net(more="def train(self, mode=True):\n        return self"), "layer 'norm' stays in training mode"),
        (net(first="return self.conv(x)"), "no BatchNorm stands directly behind"),
        (net(first="x = x + torch.rand(1)"), "output 'y' of the fused model differs by"),
        (net(first="x = x + self.conv.bias.mean()"), "output 'y' of the fused model differs by"),
    ],
    ids=["a decision", "a length", "no statistics", "training", "no norm", "chance", "a look at weights"],
)
def test_what_cannot_be_fused_is_refused_with_the_reason(tmp_path: Path, body: str, words: str) -> None:
    write(tmp_path, body)
    assert words in refusal(target(tmp_path, (3, 4, 4)))
    loaded(target(tmp_path, (3, 4, 4), parameters={"fuse": "false"}))


def test_a_model_whose_input_may_be_left_out_is_refused(tmp_path: Path) -> None:
    write(tmp_path, net(arguments=", more=None", first="x = x if more is None else x + more"))
    inputs = [spec("x", 3, 4, 4), spec("more", 3, 4, 4, optional=True)]
    assert "input 'more' may be left out" in refusal(target(tmp_path, (3, 4, 4), inputs=inputs))


@pytest.mark.parametrize(
    ("layers", "words"), [("nn.ReLU()", "has no BatchNorm"), ("nn.BatchNorm2d(3)", "folded no BatchNorm")]
)
def test_a_program_in_which_nothing_folds_is_refused(tmp_path: Path, layers: str, words: str) -> None:
    net: dict[str, Any] = {}
    exec(f"from torch import nn\nmade = nn.Sequential({layers})", net)
    with quiet_jit():
        torch.jit.script(net["made"].eval()).save(str(tmp_path / "model.pt"))
    assert words in refusal(target(tmp_path, (3, 4, 4), backend="torchscript"))


def test_open_shapes_need_an_entry_of_model_warmup(tmp_path: Path) -> None:
    layers, dims = NETS["conv2d"]
    write(tmp_path, sequence(layers))
    open_dims = (4, -1, -1)
    with pytest.raises(WarmupFailed, match=r"cannot be guessed \(x\); a model_warmup entry says what they are"):
        loaded(target(tmp_path, open_dims))
    entry = Warmup("w", 1, inputs=(WarmupInput("x", "FP32", dims, "random"),))
    backend, _ = answer(target(tmp_path, open_dims, warmup=(entry,)), dims)
    assert norms(backend.module) == 0


def test_the_check_is_made_in_float32_and_autocast_stays(tmp_path: Path) -> None:
    layers, dims = NETS["conv2d"]
    write(tmp_path, sequence(layers))
    backend, got = answer(target(tmp_path, dims, parameters={"autocast": "bf16"}), dims)
    _, expected = answer(target(tmp_path, dims, parameters={"fuse": "false"}), dims)
    assert backend.autocast is torch.bfloat16
    assert 1e-4 < np.abs(got - expected).max() / np.abs(expected).max() < 0.05


def test_differences() -> None:
    ones = torch.ones(3)
    assert fusion.difference(ones, ones) == 0
    assert fusion.difference(ones, ones * 1.5) == 0.5
    assert fusion.difference(torch.zeros(3), torch.tensor([0, 0, 0.25])) == 0.25
    assert fusion.difference(ones, ones[:2]) == float("inf")
    assert fusion.difference(ones, torch.tensor([1, 1, float("nan")])) == float("inf")
    assert fusion.difference(torch.full((2,), float("inf")), torch.full((2,), float("inf"))) == 0
    assert fusion.difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == float("inf")
    assert fusion.difference(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert fusion.tolerance(torch.float32) == 1e-4
    assert fusion.tolerance(torch.float16) == pytest.approx(0.0078, rel=0.01)
    assert fusion.tolerance(torch.int64) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("extra", [{}, {"cuda_graphs": "true"}, {"channels_last": "true", "autocast": "fp16"}], ids=str)
def test_on_cuda(tmp_path: Path, extra: dict[str, str]) -> None:
    layers, dims = NETS["conv2d"]
    write(tmp_path, sequence(layers))
    backend: Any = loaded(target(tmp_path, dims, parameters=extra), gpu=0)
    assert norms(backend.module) == 0
