"""A missing package of an extra is named with the command that installs it."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from jitney.backends import extras, inspect


@pytest.mark.parametrize(
    ("module", "extra"),
    [("onnxruntime", "onnx"), ("torch", "torch"), ("torch.jit", "torch"), ("safetensors.torch", "torch")],
)
def test_a_package_of_an_extra(module: str, extra: str) -> None:
    error = ModuleNotFoundError(f"No module named '{module}'", name=module)
    wanted = f"ModuleNotFoundError: No module named '{module}'; install it with: pip install 'jitney[{extra}]'"
    assert extras.explain(error) == wanted
    wrapped = ImportError("the handler cannot be imported")
    wrapped.__cause__ = error
    assert extras.explain(wrapped).endswith(f"pip install 'jitney[{extra}]'")


def test_other_errors_stay_as_they_are() -> None:
    assert extras.explain(ModuleNotFoundError("No module named 'mine'", name="mine")) == (
        "ModuleNotFoundError: No module named 'mine'"
    )
    assert extras.explain(ValueError("torch")) == "ValueError: torch"
    assert extras.explain(ImportError("no name")) == "ImportError: no name"


def test_every_extra_is_one_of_setup_py() -> None:
    text = (Path(inspect.__file__).parents[1] / "setup.py").read_text()
    for module, extra in extras.EXTRA_OF.items():
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f'"{extra}": [')]
        assert module in line


def test_inspecting_a_model_without_the_package_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **words: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *rest, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    assert inspect.main([str(tmp_path / "model.onnx"), "--kind", "onnx"]) == 1
    assert capsys.readouterr().err.strip().endswith("install it with: pip install 'jitney[onnx]'")
