"""Configurations completed from real model files, by a process that looks into them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.server.repository.triton import complete
from jitney.server.repository.triton.complete import Signature, Tensor, fill_from_signature
from jitney.server.repository.triton.pbtxt import Source, schema
from jitney.tests.fakes.repository import TENSORS, Folder

Shape = Sequence[int | str]


def onnx_model(inputs: dict[str, Shape], outputs: dict[str, Shape]) -> bytes:
    """A model that adds its first input to itself, once for each output."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    first = next(iter(inputs))
    graph = helper.make_graph(
        [helper.make_node("Add", [first, first], [name]) for name in outputs],
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


BATCHING: tuple[dict[str, Shape], dict[str, Shape]] = {"a": ("batch", 3, "width")}, {"b": ("batch", 3, "width")}
FIXED: tuple[dict[str, Shape], dict[str, Shape]] = {"a": (1, 3)}, {"b": (1, 3)}


def read(folder: Folder, model: bytes, config: str | None, **options: Any) -> ModelConfig:
    folder.model("m", config, {"1/model.onnx": model})
    return folder.read("m", **options)


def test_an_onnx_model_needs_no_configuration(folder: Folder) -> None:
    model = read(folder, onnx_model(*BATCHING), None)
    assert (model.backend, model.max_batch_size, model.batching.enabled) == ("onnxruntime", 4, True)
    assert model.inputs == (TensorSpec("a", "FP32", (3, -1)),) and model.outputs == (TensorSpec("b", "FP32", (3, -1)),)
    assert model.config_json["dynamic_batching"]["preferred_batch_size"] == [4]


@pytest.mark.parametrize(("default", "rows", "batches"), [("16", 16, True), ("0", 1, False), ("1", 1, False)])
def test_the_default_batch_size_is_the_backends(folder: Folder, default: str, rows: int, batches: bool) -> None:
    for name in ("onnxruntime", ""):
        model = read(folder, onnx_model(*BATCHING), None, backend_config={name: {"default-max-batch-size": default}})
        assert (model.max_batch_size, model.batching.enabled) == (rows, batches)


def test_a_directory_may_hold_the_onnx_model(folder: Folder) -> None:
    folder.model("m", None, {"1/model.onnx/model.onnx": onnx_model(*FIXED)})
    assert [spec.dims for spec in folder.read("m").inputs] == [(1, 3)]


def test_a_fixed_first_size_means_no_batch_axis(folder: Folder) -> None:
    model = read(folder, onnx_model(*FIXED), 'backend: "onnxruntime"')
    assert (model.max_batch_size, model.inputs[0].dims, model.batching.enabled) == (0, (1, 3), False)


def test_a_batch_size_that_the_model_cannot_have_is_refused(folder: Folder) -> None:
    reason = ":1: autofill failed for model 'm': model does not support batching while non-zero max_batch_size is specified"
    with pytest.raises(InvalidConfig, match=reason):
        read(folder, onnx_model(*FIXED), "max_batch_size: 8")


def test_what_the_configuration_says_stays(folder: Folder) -> None:
    config = 'max_batch_size: 16\nsequence_batching { }\noutput [ { name: "b" data_type: TYPE_FP32 dims: [ 3, 7 ] } ]'
    model = read(folder, onnx_model(*BATCHING), config)
    assert (model.max_batch_size, model.batching.enabled, model.sequence is not None) == (16, False, True)
    assert (model.inputs[0].dims, model.outputs[0].dims) == ((3, -1), (3, 7))


def test_declared_tensors_are_completed_one_by_one(folder: Folder) -> None:
    config = 'max_batch_size: 8 input [ { name: "a" } ] output [ { name: "b" data_type: TYPE_FP32 } ]'
    model = read(folder, onnx_model(*BATCHING), config)
    assert model.inputs == (TensorSpec("a", "FP32", (3, -1)),) and model.outputs[0].dims == (3, -1)
    assert not model.batching.enabled


def test_a_tensor_with_nothing_but_the_batch_axis_is_reshaped(folder: Folder) -> None:
    model = read(folder, onnx_model({"a": ("n",)}, {"b": ("n",)}), None)
    assert model.inputs == (TensorSpec("a", "FP32", (1,), reshape=()),)


def test_a_scalar_has_one_element_and_no_batch_axis(folder: Folder) -> None:
    model = read(folder, onnx_model({"a": (), "c": ("n", 3)}, {"b": ()}), None)
    assert model.inputs == (TensorSpec("a", "FP32", (1,)), TensorSpec("c", "FP32", (-1, 3)))
    assert (model.outputs, model.max_batch_size) == ((TensorSpec("b", "FP32", (1,)),), 0)
    model = read(folder, onnx_model({"a": ()}, {"b": ()}), 'input [ { name: "a" } ]')
    assert (model.inputs[0].dims, model.outputs[0].dims) == ((1,), (1,))
    with pytest.raises(InvalidConfig, match="model does not support batching"):
        read(folder, onnx_model({"a": ()}, {"b": ()}), "max_batch_size: 8")


def pt2_model(rows: Any) -> bytes:
    """x -> 2x as a program of torch.export; `rows` is the Dim of the first axis, None = fixed."""
    torch = pytest.importorskip("torch")

    class Double(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x: Any) -> Any:
            return x * 2

    made = io.BytesIO()
    torch.export.save(torch.export.export(Double(), (torch.ones(2, 3),), dynamic_shapes=rows and ({0: rows},)), made)
    return made.getvalue()


def test_a_program_of_torch_export_needs_no_configuration(folder: Folder) -> None:
    torch = pytest.importorskip("torch")
    folder.model("m", None, {"1/model.pt2": pt2_model(torch.export.Dim("rows"))})
    model = folder.read("m")
    assert (model.backend, model.filename, model.max_batch_size, model.batching.enabled) == (
        "exported",
        "model.pt2",
        4,
        True,
    )
    assert model.inputs == (TensorSpec("x", "FP32", (3,)),) and model.outputs == (TensorSpec("OUTPUT__0", "FP32", (3,)),)


def test_a_program_with_a_fixed_first_size_does_not_batch(folder: Folder) -> None:
    folder.model("m", 'backend: "pytorch"', {"1/model.pt2": pt2_model(None)})
    model = folder.read("m")
    assert (model.max_batch_size, model.inputs[0].dims, model.batching.enabled) == (0, (2, 3), False)
    folder.model("b", 'backend: "pytorch" max_batch_size: 8', {"1/model.pt2": pt2_model(None)})
    with pytest.raises(InvalidConfig, match="model does not support batching"):
        folder.read("b")


def test_a_complete_configuration_is_not_looked_into(folder: Folder) -> None:
    assert read(folder, b"no model at all", f'backend: "onnxruntime"{TENSORS}').inputs[0].name == "x"


def test_a_file_that_is_no_model_says_so(folder: Folder) -> None:
    with pytest.raises(InvalidConfig, match=r"model 'm' cannot be completed: .*model.onnx"):
        read(folder, b"no model at all", None)


def test_a_missing_file_is_named(folder: Folder) -> None:
    path = folder.model("m", 'backend: "onnxruntime"', {"1/.keep": ""})
    with pytest.raises(InvalidConfig, match=re.escape(f"unable to find '{path}/1/model.onnx' for model 'm'")):
        folder.read("m")


def test_nothing_is_completed_when_turned_off(folder: Folder) -> None:
    with pytest.raises(InvalidConfig, match="at least one input, none were specified"):
        read(folder, onnx_model(*BATCHING), 'backend: "onnxruntime"', auto_complete=False)
    folder.model("bare", None, {"1/model.onnx": onnx_model(*BATCHING)})
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt: there is no such file, and auto-completion is turned off"):
        folder.read("bare", auto_complete=False)


def test_a_file_is_looked_into_again_only_when_it_changes(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = complete._run

    def counting(module: str, *arguments: Any) -> str:
        calls.append(module)
        return run(module, *arguments)

    monkeypatch.setattr(complete, "_run", counting)
    path = folder.model("m", None, {"1/model.onnx": onnx_model(*BATCHING)})
    repository = folder.open()
    assert repository.read("m") == repository.read("m")
    assert calls == ["inspect"]
    (path / "1" / "model.onnx").write_bytes(onnx_model(*FIXED))
    os.utime(path / "1" / "model.onnx", (1, 1))
    assert repository.read("m")[0].inputs[0].dims == (1, 3)
    assert calls == ["inspect", "inspect"]


def test_each_version_is_completed_from_its_own_file(folder: Folder) -> None:
    files = {"1/model.onnx": onnx_model(*FIXED), "2/model.onnx": onnx_model(*BATCHING)}
    folder.model("m", "version_policy { all { } }", dict(files))
    assert [model.max_batch_size for model in folder.open().read("m")] == [0, 4]


def torchscript(network: str) -> bytes:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    module = torch.nn.Linear(2, 3) if network == "linear" else torch.nn.ReLU()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_model_is_completed_from_its_weights(folder: Folder) -> None:
    folder.model("m", None, {"1/model.pt": torchscript("linear")})
    config = folder.read("m")
    assert [(spec.name, spec.datatype, spec.dims) for spec in config.inputs] == [("input", "FP32", (2,))]
    assert [(spec.name, spec.datatype, spec.dims) for spec in config.outputs] == [("OUTPUT__0", "FP32", (3,))]
    assert config.max_batch_size == 4
    assert config.batching.enabled


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_file_does_not_tell_everything(folder: Folder) -> None:
    folder.model("m", "max_batch_size: 8", {"1/model.pt": torchscript("without weights")})
    with pytest.raises(InvalidConfig, match=r"'data_type' of input '\w+' of model 'm' is not in the model's file either"):
        folder.read("m")


# -- Python models -----------------------------------------------------------------------------------------------------------

AUTO = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        print("the model prints")
        config.add_input({"name": "a", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "b", "data_type": "TYPE_FP32", "dims": [1]})
        config.set_max_batch_size(6)
        config.set_dynamic_batching()
        return config
"""


def test_a_python_model_completes_its_own_configuration(folder: Folder) -> None:
    folder.model("m", None, {"1/model.py": AUTO})
    model = folder.read("m")
    assert (model.backend, model.max_batch_size, model.batching.enabled) == ("python", 6, True)
    assert model.inputs == (TensorSpec("a", "BYTES", (-1,)),) and model.outputs == (TensorSpec("b", "FP32", (1,)),)
    assert model.instance_groups[0].name == "m"


def test_a_python_model_that_raises_fails_with_its_reason(folder: Folder) -> None:
    folder.model("m", None, {"1/model.py": AUTO.replace('print("the model prints")', 'raise ValueError("not today")')})
    with pytest.raises(InvalidConfig, match=r"model 'm' cannot be completed: .*not today"):
        folder.read("m")


def test_a_python_model_without_the_method_starts_no_process(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete, "_run", lambda *arguments: pytest.fail("a process was started"))
    folder.python("m")
    assert folder.read("m").inputs[0].name == "x"


def test_a_model_that_takes_too_long_is_ended(folder: Folder) -> None:
    folder.model("m", None, {"1/model.py": "import time\ntime.sleep(60)\n" + AUTO})
    with pytest.raises(InvalidConfig, match="autocomplete took longer than 1 s"):
        folder.read("m", backend_config={"python": {"stub-timeout-seconds": "1"}})


# -- the rules alone -------------------------------------------------------------------------------------------------------


def test_a_module_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfig, match=r"this installation has no module jitney\.backends\.nothing"):
        complete._run("nothing", [], "", 1.0, "m")


def test_a_shape_of_size_zero_is_refused() -> None:
    config = schema.ModelConfig(name="m")
    signature = Signature((Tensor("a", "FP32", (0, 3)),), (Tensor("b", "FP32", (3,)),))
    with pytest.raises(InvalidConfig, match=r"input 'a' of model 'm' has the shape \[0, 3\]"):
        fill_from_signature(config, signature, 4, Source("c"))


def test_a_bad_default_batch_size_is_refused(folder: Folder) -> None:
    with pytest.raises(InvalidConfig, match="default-max-batch-size must be an integer >= 0, got 'many'"):
        read(folder, onnx_model(*BATCHING), None, backend_config={"onnxruntime": {"default-max-batch-size": "many"}})
