"""`jitney check`: each mistake is one line with its place, and the status tells whether there was one."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jitney.server.cli.main import main
from jitney.tests.fakes.repository import PYTHON_MODEL, TENSORS, Folder

Check = Callable[..., tuple[int, list[str]]]
ROOT = Path(__file__).resolve().parents[3]
ONNX = ROOT / "tools/templates/linear.onnx"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    return Folder(tmp_path / "models")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def run(*arguments: str) -> tuple[int, list[str]]:
        status = main(["check", *(arguments or ("models",))])
        said = capsys.readouterr()
        return status, (said.out + said.err).splitlines()

    return run


def archive(
    path: Path, source: str = "class H:\n    def handle(self, data, context):\n        return data\n", **model: str
) -> None:
    path.parent.mkdir(exist_ok=True)
    manifest = {"runtime": "python", "model": {"modelName": path.stem, "modelVersion": "1.0", "handler": "h.py", **model}}
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("h.py", source)
        made.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))


def test_models_without_a_mistake(folder: Folder, check: Check) -> None:
    folder.python("m")
    folder.model("n", "", {"1/model.onnx": ONNX.read_bytes()})
    assert check() == (
        0,
        [
            "models/n/config.pbtxt: note: leaves out inputs or outputs: they are read from the model's file when it is loaded, "
            "here they are not (--load)",
            "no errors",
        ],
    )


@pytest.mark.parametrize(
    ("config", "files", "line"),
    [
        (
            'backend: "python"\nmax_batchsize: 4',
            None,
            'config.pbtxt:2: error: Message type "inference.ModelConfig" has no field',
        ),
        (
            'backend: "python"\n\nbatch_input { kind: BATCH_ELEMENT_COUNT }',
            None,
            "config.pbtxt:3: error: 'batch_input' is not supported",
        ),
        (
            f'backend: "python"{TENSORS}',
            {"1/model.py": "x = 1\ndef f(:\n"},
            "1/model.py:2: error: not valid Python: invalid syntax",
        ),
        (f'backend: "python"{TENSORS}', {"1/model.py": "x = 1\n"}, "1/model.py: error: defines no class TritonPythonModel"),
        (
            f'backend: "python"{TENSORS}',
            {"1/model.py": "\nclass TritonPythonModel:\n    def run(self): ...\n"},
            "1/model.py:2: error: TritonPythonModel has no method execute",
        ),
        (f'platform: "onnxruntime_onnx"{TENSORS}', {"1/other.onnx": ""}, "1: error: unable to find '"),
        (
            f'backend: "pytorch" runtime: "model.py"{TENSORS}',
            {"1/model.py": "x = 1\n"},
            "1/model.py: error: defines no class derived",
        ),
        (
            f'backend: "python"{TENSORS}parameters {{ key: "codec" value {{ string_value: "codec.py" }} }}',
            {
                "1/model.py": "class TritonPythonModel:\n    def execute(self, r): ...\n",
                "codec.py": "def decode(request): ...\n",
            },
            "codec.py: error: a codec needs decode(request) and encode(outputs, request); it has no 'encode'",
        ),
        (
            f'backend: "python"{TENSORS}parameters {{ key: "codec" value {{ string_value: "image_clasifier" }} }}',
            None,
            "config.pbtxt: error: model 'm': unknown codec 'image_clasifier', did you mean 'image_classifier'",
        ),
        (
            f'platform: "onnxruntime_onnx" max_batch_size: 4{TENSORS}'
            'parameters { key: "batch_sizes" value { string_value: "1,8" } }',
            {"1/model.onnx": ""},
            "config.pbtxt: error: parameter batch_sizes: the sizes must be between 1 and max_batch_size 4",
        ),
        ('backend: "tensorrt"', None, "config.pbtxt:1: error: backend 'tensorrt' of m is not offered"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(
    folder: Folder, check: Check, config: str, files: dict[str, str | bytes] | None, line: str
) -> None:
    folder.model("m", config, files)
    folder.python("other")
    status, lines = check()
    assert status == 1
    (found,) = [each for each in lines if " error: " in each]
    assert found.startswith(f"models/m/{line}")
    assert lines[-1] == "1 error"
    assert check("models/m")[0] == 1
    assert check("models/other") == (0, ["no errors"])


def test_a_python_based_backend_is_checked_where_its_folder_is_named(folder: Folder, check: Check) -> None:
    folder.model("m", f'backend: "sums"{TENSORS}', {"1/model.json": "{}"})
    backend = folder.path.parent / "backends" / "sums"
    backend.mkdir(parents=True)
    (backend / "model.py").write_text(PYTHON_MODEL)
    assert check()[0] == 1
    assert check("models", "--backend-directory", str(backend.parent)) == (0, ["no errors"])
    (backend / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    assert check("models", "--backend-directory", str(backend.parent))[0] == 1


def test_what_has_no_effect_is_a_warning_or_a_note(folder: Folder, check: Check) -> None:
    extra = 'optimization { priority: PRIORITY_MAX }\nparameters { key: "freeze" value { string_value: "1" } }'
    folder.model("m", f'platform: "onnxruntime_onnx"{TENSORS}{extra}', {"1/model.onnx": ONNX.read_bytes(), "stray.mar": ""})
    (folder.path / "loose.onnx").touch()
    status, lines = check()
    assert status == 0
    assert any(line.startswith("models/loose.onnx: warning: passed over; a model is a folder") for line in lines)
    assert any(
        line.startswith("models/m/config.pbtxt:4: note: 'optimization.priority' has no effect here") for line in lines
    )
    assert any(line.startswith("models/m/config.pbtxt:5: warning: parameter freeze has no effect") for line in lines)


def test_an_ensembles_steps_are_looked_up(folder: Folder, check: Check) -> None:
    maps = 'input_map {{ key: "x" value: "x" }} output_map {{ key: "y" value: "y" }}'
    step = f'step {{{{ model_name: "{{}}" model_version: -1 {maps} }}}}'
    folder.python("half")
    for name, model in (("good", "half"), ("bad", "whole")):
        folder.model(name, f'platform: "ensemble"{TENSORS}ensemble_scheduling {{ {step.format(model)} }}', {"1/.keep": ""})
    status, lines = check()
    assert (status, lines) == (
        1,
        ["models/bad/config.pbtxt: error: ensemble 'bad' has a step of model 'whole', which is in no repository", "1 error"],
    )


@pytest.mark.parametrize(
    ("handler", "model", "line"),
    [
        ("def f(:\n", {}, "/h.py:1: error: not valid Python"),
        (
            "class A: ...\nclass B: ...\n",
            {},
            "/h.py: error: a handler needs a function handle(data, context) or exactly one class",
        ),
        ("def go(data, context): ...\n", {"handler": "h.py:run"}, "/h.py: error: has no 'run'"),
        (
            "def handle(d, c): ...\n",
            {"serializedFile": "w.pt"},
            "/MAR-INF/MANIFEST.json: error: 'serializedFile' names 'w.pt'",
        ),
        ("def handle(d, c): ...\n", {"modelVersion": ""}, "/MAR-INF/MANIFEST.json: error: "),
        (
            "def handle(d, c): ...\n",
            {"configFile": "c.yaml"},
            ": error: the manifest's configFile 'c.yaml' is not in the archive",
        ),
        (
            "def handle(d, c): ...\n",
            {"handler": "elsewhere"},
            "/MAR-INF/MANIFEST.json: warning: the handler 'elsewhere' is neither",
        ),
    ],
)
def test_an_archives_mistake(
    tmp_path: Path, folder: Folder, check: Check, handler: str, model: dict[str, str], line: str
) -> None:
    archive(tmp_path / "store/m.mar", handler, **model)
    status, lines = check("store/m.mar")
    assert lines[0].startswith(f"store/m.mar{line}") and len(lines) == 2
    assert status == (0 if "warning" in line else 1)
    assert check("store") == (status, lines)  # the folder that holds it


def test_good_archives_and_what_is_none(tmp_path: Path, folder: Folder, check: Check) -> None:
    archive(tmp_path / "store/m.mar")
    (tmp_path / "store/n.mar").write_text("no archive")
    assert check("store/m.mar") == (0, ["no errors"])
    assert check("store") == (1, ["store/n.mar: error: n.mar: neither a zip archive nor a gzipped tar archive", "1 error"])
    with zipfile.ZipFile(tmp_path / "store/m.mar") as packed:
        packed.extractall(tmp_path / "unpacked")
    assert check("unpacked") == (0, ["no errors"])
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["m.mar", "n.mar"]


def test_what_cannot_be_checked_is_status_2(tmp_path: Path, folder: Folder, check: Check) -> None:
    assert check("nowhere")[0] == 2
    (tmp_path / "some.txt").touch()
    status, (line,) = check("some.txt")
    assert status == 2 and line.startswith("jitney check: 'some.txt' is no archive")
    with pytest.raises(SystemExit) as caught:
        main(["check"])
    assert caught.value.code == 2


def test_json_has_every_part_of_a_finding(folder: Folder, check: Check) -> None:
    folder.model("m", 'backend: "python"\nmax_batchsize: 4')
    status, lines = check("--json", "models")
    (found,) = json.loads("\n".join(lines))
    assert status == 1
    assert (found["severity"], found["path"], found["line"], found["model"]) == ("error", "models/m/config.pbtxt", 2, "m")
    assert "Did you mean max_batch_size?" in found["text"]
    folder.model("m", f'backend: "python"{TENSORS}')
    assert check("--json", "models") == (0, ["[]"])


def test_nothing_is_run_unless_it_is_asked_for(tmp_path: Path, folder: Folder, check: Check) -> None:
    mark = tmp_path / "ran"
    body = "class TritonPythonModel:\n    def execute(self, requests): ...\n"
    folder.model(
        "m", f'backend: "python"{TENSORS}', {"1/model.py": f"open({str(mark)!r}, 'w')\nimport nowhere_at_all\n{body}"}
    )
    folder.python("n")
    assert check() == (0, ["no errors"]) and not mark.exists()
    status, lines = check("models", "--load")
    assert mark.exists()
    assert status == 1 and len(lines) == 3
    assert lines[0].startswith("models: error: model 'm' does not load: ") and "nowhere_at_all" in lines[0]
    assert lines[1:] == ["models: note: model 'n' loads", "1 error"]
    assert check("models/n", "--load") == (0, ["models: note: model 'n' loads", "no errors"])


def test_an_archive_is_loaded_if_that_is_asked_for(tmp_path: Path, folder: Folder, check: Check) -> None:
    archive(tmp_path / "store/m.mar", "import nowhere_at_all\ndef handle(d, c): ...\n")
    status, lines = check("store", "--load")
    assert status == 1
    assert lines[0].startswith("store/m.mar: error: model 'm' does not load: ") and "nowhere_at_all" in lines[0]


RECORDED = ROOT / "tests/conformance/recordings"
#: The models of the recorded Triton that it could not load either.
BROKEN = {"broken_cfg", "broken_nover", "broken_pref", "name_mismatch"}


def test_of_the_recorded_models_only_the_broken_ones_are_found(check: Check) -> None:
    status, lines = check("--json", str(RECORDED / "triton/model_repository"))
    found = json.loads("\n".join(lines))
    assert status == 1
    assert {each["model"] for each in found if each["severity"] == "error"} == BROKEN


@pytest.mark.parametrize("name", ["noop", "echo_batch", "custom_metrics"])
def test_recorded_archives_are_found_good(name: str, check: Check) -> None:
    assert check(str(RECORDED / f"torchserve/mars/{name}.mar")) == (0, ["no errors"])
