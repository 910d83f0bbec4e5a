"""What the folder and the machine fill in: backend, file name, instance groups."""

from __future__ import annotations

import importlib.machinery
import io
import re
import zipfile
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import InstanceGroup
from jitney.server.repository.triton import devices
from jitney.tests.fakes.repository import PYTHON_MODEL, TENSORS, Folder


def archive(*names: str) -> bytes:
    """A zip with these names in it, as torch writes its files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return buffer.getvalue()


TORCHSCRIPT = archive("model/constants.pkl", "model/data.pkl", "model/code/__torch__.py")
PROGRAM = archive("model/models/model.json", "model/data/weights/weight_0", "model/archive_format")
PACKAGE = archive("model/data/aotinductor/model/c.wrapper.so", "model/archive_format")
OLD_PROGRAM = archive("version", "serialized_exported_program.json", "serialized_state_dict.json")
STATE_DICT = archive("model/data.pkl", "model/data/0")


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        ("", {"model.onnx": b""}, ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ("", {"model.pt": TORCHSCRIPT}, ("torchscript", "pytorch_libtorch", "model.pt")),
        ("", {"model.py": PYTHON_MODEL}, ("python", "", "model.py")),
        ('backend: "onnxruntime"', {}, ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('platform: "onnxruntime_onnx"', {}, ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('platform: "pytorch_libtorch"', {}, ("torchscript", "pytorch_libtorch", "model.pt")),
        ('backend: "python"', {}, ("python", "", "model.py")),
        ('default_model_filename: "model.onnx"', {}, ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        (
            'backend: "onnxruntime" default_model_filename: "net/a.onnx"',
            {},
            ("onnxruntime", "onnxruntime_onnx", "net/a.onnx"),
        ),
        ('backend: "pytorch" runtime: "model.py"', {}, ("eager", "pytorch_libtorch", "model.py")),
        ('backend: "pytorch"', {"model.py": "", "model.pt": STATE_DICT}, ("eager", "pytorch_libtorch", "model.py")),
        ('backend: "pytorch"', {"model.py": ""}, ("eager", "pytorch_libtorch", "model.py")),
        ('backend: "pytorch"', {"model.py": "", "model.pt": TORCHSCRIPT}, ("torchscript", "pytorch_libtorch", "model.pt")),
        ('backend: "pytorch"', {"model.pt": STATE_DICT}, ("torchscript", "pytorch_libtorch", "model.pt")),
        ('backend: "pytorch" default_model_filename: "net.py"', {}, ("eager", "pytorch_libtorch", "net.py")),
        ("", {"model.pt2": PROGRAM}, ("exported", "pytorch_libtorch", "model.pt2")),
        ("", {"model.pt2": PROGRAM, "model.py": PYTHON_MODEL}, ("python", "", "model.py")),
        ('backend: "pytorch"', {"model.pt2": PROGRAM, "model.py": ""}, ("exported", "pytorch_libtorch", "model.pt2")),
        ('backend: "pytorch"', {"model.pt2": b"junk"}, ("exported", "pytorch_libtorch", "model.pt2")),
        ('platform: "pytorch_libtorch"', {"model.pt2": PROGRAM}, ("exported", "pytorch_libtorch", "model.pt2")),
        ('platform: "torch_aoti"', {}, ("exported", "torch_aoti", "model.pt2")),
        ('backend: "pytorch" platform: "torch_aoti"', {"model.pt2": PACKAGE}, ("exported", "torch_aoti", "model.pt2")),
        ('default_model_filename: "model.pt2"', {}, ("exported", "pytorch_libtorch", "model.pt2")),
        ('backend: "pytorch" default_model_filename: "net.pt2"', {}, ("exported", "pytorch_libtorch", "net.pt2")),
        ('backend: "pytorch"', {"model.pt": PROGRAM}, ("exported", "pytorch_libtorch", "model.pt")),
        ('backend: "pytorch"', {"model.pt": PACKAGE, "model.py": ""}, ("exported", "pytorch_libtorch", "model.pt")),
        ('backend: "pytorch"', {"model.pt": OLD_PROGRAM}, ("exported", "pytorch_libtorch", "model.pt")),
        (
            'backend: "pytorch"',
            {"model.pt": TORCHSCRIPT, "model.pt2": PROGRAM},
            ("torchscript", "pytorch_libtorch", "model.pt"),
        ),
    ],
)
def test_backend_platform_and_file(
    folder: Folder, config: str, files: dict[str, str | bytes], expected: tuple[str, str, str]
) -> None:
    folder.model("m", config + TENSORS, {"1/.keep": "", **{f"1/{name}": content for name, content in files.items()}})
    model = folder.read("m")
    assert (model.backend, model.platform, model.filename) == expected


def test_the_config_document_shows_what_was_filled_in(folder: Folder) -> None:
    folder.model("m", TENSORS, {"1/model.onnx": ""})
    document = folder.read("m").config_json
    assert (document["name"], document["backend"], document["platform"]) == ("m", "onnxruntime", "onnxruntime_onnx")
    assert document["default_model_filename"] == "model.onnx"
    assert document["version_policy"] == {"latest": {"num_versions": 1}}
    folder.model("eager", f'backend: "pytorch" runtime: "model.py"{TENSORS}', {"1/model.py": ""})
    assert folder.read("eager").config_json["default_model_filename"] == ""


@pytest.mark.parametrize("name", ["../model.py", "/etc/passwd", "a/../b", "."])
def test_a_model_file_is_in_its_versions_folder(folder: Folder, name: str) -> None:
    folder.python("m", f'default_model_filename: "{name}"')
    with pytest.raises(InvalidConfig, match=r":4: 'default_model_filename' of m: invalid path"):
        folder.read("m")


# -- instance groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "config", "expected"),
    [
        ([], "", [InstanceGroup("m", 1, "KIND_CPU")]),
        ([0, 1], "", [InstanceGroup("m", 1, "KIND_GPU", (0, 1))]),
        ([], "instance_group [ { } ]", [InstanceGroup("m_0", 1, "KIND_CPU")]),
        ([0, 1], "instance_group [ { count: 2 } ]", [InstanceGroup("m_0", 2, "KIND_GPU", (0, 1))]),
        ([0, 1], "instance_group [ { gpus: [ 1 ] } ]", [InstanceGroup("m_0", 1, "KIND_GPU", (1,))]),
        ([0], "instance_group [ { kind: KIND_MODEL } ]", [InstanceGroup("m_0", 1, "KIND_MODEL")]),
        (
            [0],
            "instance_group [ { name: 'fast' kind: KIND_GPU }, { kind: KIND_CPU count: 3 } ]",
            [InstanceGroup("fast", 1, "KIND_GPU", (0,)), InstanceGroup("m_1", 3, "KIND_CPU")],
        ),
    ],
)
def test_groups_get_name_kind_count_and_gpus(
    folder: Folder, gpus: list[int], config: str, expected: list[InstanceGroup]
) -> None:
    folder.gpus = gpus
    folder.python("m", config)
    model = folder.read("m")
    assert list(model.instance_groups) == expected
    assert model.min_workers == model.max_workers == sum(group.count * max(1, len(group.gpus)) for group in expected)


@pytest.mark.parametrize(
    ("gpus", "config", "reason"),
    [
        (
            [],
            "instance_group [ { kind: KIND_GPU } ]",
            "of model m has kind KIND_GPU but no GPUs are available; write kind: KIND_AUTO (a GPU where there is one, "
            "else the CPU) or KIND_CPU",
        ),
        (
            [0],
            "instance_group [ { kind: KIND_CPU gpus: 0 } ]",
            "has kind KIND_CPU but specifies one or more GPUs; leave 'gpus' out, or write KIND_GPU",
        ),
        ([], "instance_group [ { gpus: 0 } ]", "specifies one or more GPUs; leave 'gpus' out: this machine has no GPU"),
        ([0], "instance_group [ { kind: KIND_MODEL gpus: 0 } ]", "has kind KIND_MODEL but specifies one or more GPUs"),
        (
            [0],
            "instance_group [ { kind: KIND_GPU gpus: 3 } ]",
            "specifies invalid or unsupported gpu id 3. GPUs that are available: 0; ",
        ),
        (
            [],
            "instance_group [ { kind: KIND_GPU gpus: 0 } ]",
            "GPUs that are available: none; leave 'gpus' out, or write kind: KIND_AUTO",
        ),
        ([], "instance_group [ { profile: 'p' } ]", "specifies profile field which is only supported for TensorRT models"),
    ],
)
def test_groups_that_cannot_be(folder: Folder, gpus: list[int], config: str, reason: str) -> None:
    folder.gpus = gpus
    folder.python("m", config)
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:4: .*" + re.escape(reason)):
        folder.read("m")


@pytest.mark.parametrize(("gpus", "count"), [([], 2), ([0], 1)])
def test_onnx_runtime_has_two_instances_on_the_cpu(
    folder: Folder, gpus: list[int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitney.server.repository.triton.repository.framework_uses_gpus", lambda backend: True)
    folder.gpus = gpus
    folder.model("m", f'backend: "onnxruntime"{TENSORS}', {"1/model.onnx": ""})
    assert folder.read("m").instance_groups[0].count == count


def test_automatic_groups_stay_on_the_cpu_when_the_framework_cannot_use_the_gpu(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitney.server.repository.triton.repository.framework_uses_gpus", lambda backend: False)
    folder.gpus = [0]
    folder.model("m", f'backend: "pytorch"{TENSORS}', {"1/model.pt": TORCHSCRIPT})
    assert folder.read("m").instance_groups == (InstanceGroup("m", 1, "KIND_CPU"),)


def test_what_the_installed_frameworks_can_do_is_read_from_their_files() -> None:
    torch = pytest.importorskip("torch")
    assert devices.framework_uses_gpus("torchscript") is (torch.version.cuda is not None)
    onnxruntime = pytest.importorskip("onnxruntime")
    assert devices.framework_uses_gpus("onnxruntime") is ("CUDAExecutionProvider" in onnxruntime.get_available_providers())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", True),
        ('cuda = "11.8"\n', True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n", False),
        ("", False),
    ],
)
def test_a_torch_built_for_cuda_is_known_by_its_version_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    (tmp_path / "version.py").write_text(text)
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert devices._torch_has_cuda() is expected
