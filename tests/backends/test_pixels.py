"""Normalisation in the worker: every backend answers bytes as it answers the floats that the codec would have made of them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from PIL import Image

from jitney.backends.base import Backend
from jitney.backends.onnx_pixels import model_bytes
from jitney.backends.torch_values import Normalizer
from jitney.backends.torchscript import quiet_jit
from jitney.codecs import create, pixels_of
from jitney.core.errors import InvalidConfig, InvalidTensor
from jitney.core.model_config import ModelConfig
from jitney.core.request import Part, Request
from jitney.core.tensor import NUMPY_DTYPES, Tensor
from jitney.server.serving.validation import validate
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, spec

SIZE = 6
BACKENDS = ["eager", "torchscript", "onnxruntime"]
SOURCE = "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.clone()\n"


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def save(folder: Path, backend: str, datatype: str) -> None:
    """A model whose answer is its input, so that the test sees what the model saw."""
    if backend == "eager":
        (folder / "model.py").write_text(SOURCE)
    elif backend == "torchscript":
        with quiet_jit():
            torch.jit.script(Same().eval()).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    else:
        import onnx
        from onnx import TensorProto, helper

        kind = {"FP32": TensorProto.FLOAT, "FP16": TensorProto.FLOAT16, "FP64": TensorProto.DOUBLE}[datatype]
        sides = [[helper.make_tensor_value_info(name, kind, ["N", "C", "H", "W"])] for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", sides[0], sides[1])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")


def model(folder: Path, backend: str, channels: int = 3, datatype: str = "FP32", **parameters: str) -> ModelConfig:
    save(folder, backend, datatype)
    dims = (channels, SIZE, SIZE)
    given = {"resize": "0", "crop": str(SIZE)} | ({"image_mode": "L"} if channels == 1 else {}) | parameters
    inputs, outputs = [spec("x", *dims, datatype=datatype)], [spec("y", *dims, datatype=datatype)]
    return config(folder, backend, inputs, outputs, rows=8, codec="image_classifier", parameters=given)


def picture(seed: int) -> Part:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return Part("body", out.getvalue())


def decoded(target: ModelConfig, seed: int, in_codec: bool = False) -> Tensor:
    if in_codec:
        target = replace(target, parameters={**target.parameters, "normalize_on_device": "false"})
    (tensor,) = create(target).decode([picture(seed)], {})
    return tensor


def seen(backend: Backend, tensors: list[Tensor]) -> list[np.ndarray]:
    got = answers(backend, [Request(tensors=[tensor], rows=1) for tensor in tensors])
    return [arrays(answer)["y"] for answer in got]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("channels", "datatype", "parameters"),
    [
        (3, "FP32", {}),
        (3, "FP32", {"mean": "0.5", "std": "0.01"}),
        (3, "FP16", {}),
        (3, "FP64", {"mean": "0.1,0.2,0.3", "std": "0.9,1,1.1"}),
        (1, "FP32", {"mean": "0.3", "std": "0.35"}),
        (3, "FP32", {"batch_sizes": "8"}),
    ],
)
def test_bytes_are_answered_as_the_codecs_floats(
    tmp_path: Path, backend: str, channels: int, datatype: str, parameters: dict[str, str]
) -> None:
    target = model(tmp_path, backend, channels, datatype, **parameters)
    sent = [decoded(target, seed) for seed in range(5)]
    assert {tensor.datatype for tensor in sent} == {"UINT8"}
    expected = [decoded(target, seed, in_codec=True).numpy() for seed in range(5)]
    running = loaded(target)
    for got in (seen(running, sent), [seen(running, [tensor])[0] for tensor in sent]):
        for values, wanted in zip(got, expected, strict=True):
            assert values.dtype == wanted.dtype == NUMPY_DTYPES[datatype]
            np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_and_floats_of_one_batch_are_not_mixed_up(tmp_path: Path, backend: str) -> None:
    target = model(tmp_path, backend)
    order = [True, False, False, True, True, False]
    sent = [decoded(target, seed, in_codec=floats) for seed, floats in enumerate(order)]
    expected = [decoded(target, seed, in_codec=True).numpy() for seed in range(len(order))]
    running = loaded(target)
    for values, wanted in zip(seen(running, sent), expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)
    for values, wanted in zip(seen(running, sent[1:3]), expected[1:3], strict=True):  # and bytes alone afterwards
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("extra", [{"io_binding": "true"}, {"channels_last": "true"}])
def test_with_other_parameters_too(tmp_path: Path, extra: dict[str, Any]) -> None:
    target = model(tmp_path, "onnxruntime" if "io_binding" in extra else "eager", **extra)
    (values,) = seen(loaded(target), [decoded(target, 3)])
    np.testing.assert_allclose(values, decoded(target, 3, in_codec=True).numpy(), rtol=0, atol=1e-6)


def test_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    target = replace(model(tmp_path, "eager"), max_batch_size=0)
    assert decoded(target, 1).shape == (3, SIZE, SIZE)
    got = seen(loaded(target), [decoded(target, seed) for seed in (1, 2)])
    np.testing.assert_allclose(got[1], decoded(target, 2, in_codec=True).numpy(), rtol=0, atol=1e-6)


def test_normalised_rows_are_not_taken_for_a_model_that_works_in_place(tmp_path: Path) -> None:
    target = model(tmp_path, "eager")
    backend: Any = loaded(target)
    seen(backend, [decoded(target, 1)])
    assert not backend.copies_single


def test_only_the_codec_may_send_bytes(tmp_path: Path) -> None:
    target = model(tmp_path, "eager")
    tensor = decoded(target, 1)
    codec = create(target)
    assert validate(codec.expects([tensor]), Request(tensors=[tensor])) == 1
    with pytest.raises(InvalidTensor, match="data-type is 'UINT8', but model 'm' expects 'FP32'"):
        validate(target, Request(tensors=[tensor]))
    short = structs.replace(tensor, data=tensor.data[:-1])
    with pytest.raises(InvalidTensor, match="byte size mismatch"):
        validate(codec.expects([short]), Request(tensors=[short]))


def test_a_worker_that_does_not_normalise_refuses_bytes(tmp_path: Path) -> None:
    target = model(tmp_path, "eager", normalize_on_device="false")
    bytes_of = decoded(replace(target, parameters={**target.parameters, "normalize_on_device": "true"}), 1)
    (answer,) = answers(loaded(target), [Request(tensors=[bytes_of], rows=1)])
    assert answer.error is not None
    assert "data-type is 'UINT8', but model 'm' expects 'FP32'" in answer.error.message


def test_a_json_list_is_the_tensor_and_floats(tmp_path: Path) -> None:
    target = model(tmp_path, "eager")
    ones = [[[1] * SIZE] * SIZE] * 3
    (tensor,) = create(target).decode([Part("body", str(ones).encode(), "application/json")], {})
    assert (tensor.datatype, tensor.numpy().max()) == ("FP32", 1.0)
    assert create(target).expects([tensor]) is target


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backend": "python"}, "backend 'python' runs the model's own code"),
        ({"sequence": {"direct": {}}}, "stateful"),
        ({"inputs": (spec("x", 3, SIZE, SIZE, reshape=(3, SIZE * SIZE)),)}, "input 'x' has a reshape"),
    ],
)
def test_where_it_cannot_be_had_auto_leaves_it_and_true_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    target = replace(model(tmp_path, "eager"), **change)
    assert pixels_of(target) is None
    asked = replace(target, parameters={**target.parameters, "normalize_on_device": "true"})
    with pytest.raises(InvalidConfig, match=words):
        pixels_of(asked)
    with pytest.raises(InvalidConfig, match="'normalize_on_device' is 'on'; expected auto or true or false"):
        pixels_of(replace(target, parameters={"normalize_on_device": "on"}))


def test_other_codecs_and_configurations_that_do_not_fit_have_none(tmp_path: Path) -> None:
    target = model(tmp_path, "eager")
    assert pixels_of(replace(target, codec="json")) is None
    assert pixels_of(replace(target, inputs=(spec("a", 1), spec("b", 1)))) is None


def test_the_written_model_is_valid_onnx(tmp_path: Path) -> None:
    import onnx

    for datatype in ("FP32", "FP16"):
        pixels = pixels_of(model(tmp_path, "onnxruntime", datatype=datatype))
        assert pixels is not None
        parsed = onnx.load_model_from_string(model_bytes(pixels))
        assert [node.op_type for node in parsed.graph.node][:4] == ["Cast", "Div", "Sub", "Div"]
        assert onnx.numpy_helper.to_array(parsed.graph.initializer[2]).shape == (3, 1, 1)


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "FP64"])
def test_what_a_gpu_computes_has_the_codecs_bits(tmp_path: Path, datatype: str) -> None:
    target = model(tmp_path, "eager", datatype=datatype)
    pixels = pixels_of(target)
    assert pixels is not None
    rows = torch.from_numpy(decoded(target, 4).numpy().copy())
    got = Normalizer(pixels, torch.device("cpu"))(rows)
    np.testing.assert_array_equal(got.numpy(), decoded(target, 4, in_codec=True).numpy())


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", [{}, {"cuda_graphs": "true"}, {"overlap_copies": "false"}])
def test_on_cuda_to_a_millionth(tmp_path: Path, backend: str, extra: dict[str, Any]) -> None:
    if backend == "onnxruntime":
        ort = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            pytest.skip("onnxruntime-gpu is not installed")
    target = model(tmp_path, backend, **extra)
    running = loaded(target, gpu=0)
    for floats in ([False] * 5, [True, False, False]):
        sent = [decoded(target, seed, in_codec=kind) for seed, kind in enumerate(floats)]
        for seed, values in enumerate(seen(running, sent)):
            np.testing.assert_allclose(values, decoded(target, seed, in_codec=True).numpy(), rtol=0, atol=1e-6)
