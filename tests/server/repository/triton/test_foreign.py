"""Models of Triton's other backends are named as what they are, with a way to serve them here."""

from __future__ import annotations

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.foreign import FORMATS
from jitney.tests.fakes.repository import TENSORS, Folder

WAY_OUT = ("ONNX", "Python model")


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("model.plan", "a TensorRT plan"),
        ("model.savedmodel/saved_model.pb", "a TensorFlow SavedModel"),
        ("model.graphdef", "a TensorFlow GraphDef"),
        ("model.xml", "an OpenVINO model"),
        ("model.dali", "a DALI pipeline"),
        ("xgboost.json", "a model of decision trees (FIL)"),
        ("model.h5", "a TensorFlow model"),
        ("model.pkl", "a pickled Python object"),
    ],
)
def test_a_file_tells_what_it_is(folder: Folder, file: str, what: str) -> None:
    folder.model("m", None, {f"1/{file}": ""})
    with pytest.raises(InvalidConfig) as caught:
        folder.read("m")
    text = str(caught.value)
    assert f"'{file.split('/')[0]}' is {what}, which is not served: " in text
    assert any(words in text for words in WAY_OUT)
    folder.model("named", f'default_model_filename: "{file.split("/")[0]}"{TENSORS}', {f"1/{file}": ""})
    with pytest.raises(InvalidConfig, match="which is not served: "):
        folder.read("named")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ('platform: "tensorrt_plan"', "a TensorRT plan"),
        ('backend: "tensorrt"', "a TensorRT plan"),
        ('platform: "tensorflow_savedmodel"', "a TensorFlow SavedModel"),
        ('platform: "tensorflow_graphdef" backend: "tensorflow"', "a TensorFlow SavedModel|a TensorFlow GraphDef"),
        ('backend: "openvino"', "an OpenVINO model"),
        ('backend: "dali"', "a DALI pipeline"),
        ('backend: "tensorrtllm"', "a TensorRT-LLM engine"),
        ('backend: "vllm"', "a vLLM model"),
        ('backend: "fil"', "a model of decision trees"),
    ],
)
def test_a_platform_or_backend_tells_what_it_is(folder: Folder, config: str, what: str) -> None:
    path = folder.model("m", config + TENSORS) / "config.pbtxt"
    with pytest.raises(InvalidConfig, match=rf"{path}:1: .*; m is ({what}).*: ") as caught:
        folder.read("m")
    assert any(words in str(caught.value) for words in WAY_OUT)


def test_an_unknown_backend_is_told_the_general_way(folder: Folder) -> None:
    folder.model("m", 'backend: "mine"' + TENSORS)
    with pytest.raises(
        InvalidConfig, match=r"backend 'mine' of m is not offered, .*; write what it computes in a Python model"
    ):
        folder.read("m")


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (
            {"1/resnet.onnx": ""},
            'rename resnet.onnx to model.onnx, or write backend: "onnxruntime" default_model_filename: "re',
        ),
        ({"1/net.pth": "", "1/notes.txt": ""}, "rename net.pth to model.pt, or write backend: "),
        ({"1/model.safetensors": ""}, "weights alone; put a model.py with the module's class beside them"),
        ({"1/pytorch_model.bin": ""}, "class beside them, and rename pytorch_model.bin to model.pt"),
        ({"1/weights.bin": ""}, "which holds weights.bin"),
        ({"1/.keep": ""}, "which is empty"),
        ({"1/a.onnx": "", "1/b.onnx": ""}, "which holds a.onnx, b.onnx"),
    ],
)
def test_a_version_whose_file_nobody_knows(folder: Folder, files: dict[str, str | bytes], advice: str) -> None:
    folder.model("m", None, files)
    with pytest.raises(
        InvalidConfig, match=r"must specify 'platform' or 'backend' for 'm': there is no model.onnx, "
    ) as caught:
        folder.read("m")
    assert advice in str(caught.value)


def test_no_name_and_no_file_stands_for_two_formats() -> None:
    names = [name for each in FORMATS for name in each.names]
    files = [name for each in FORMATS for name in each.files]
    assert len(set(names)) == len(names) and len(set(files)) == len(files)
