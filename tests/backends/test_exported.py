"""`.pt2` files: programs of torch.export and packages of AOTInductor, run, described and refused."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from jitney.backends.inspect import describe
from jitney.backends.options import CannotLoad
from jitney.backends.warmup import WarmupFailed
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

ROWS = {0: Dim("rows", min=1, max=64)}


class Linear(torch.nn.Module):
    """y = 2x + 1, and the sum of each row of x."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2 + 1, x.sum(1, keepdim=True)


class Nested(torch.nn.Module):
    """Tensors in a dict, a fixed number, and a keyword."""

    def forward(self, both: dict[str, torch.Tensor], times: int, *, plus: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": (both["a"] + both["b"]) * times + plus, "b": both["b"]}


class Typed(torch.nn.Module):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - models call it so
        return input.clone()


def named(name: str, array: Any) -> dict[str, Any]:
    return {name: array}


def export(module: torch.nn.Module, path: Path, *arguments: Any, dynamic: Any = None, **keywords: Any) -> Any:
    program = torch.export.export(module.eval(), arguments, keywords or None, dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return program


def save_linear(folder: Path, rows: Any = ROWS) -> Any:
    return export(Linear(), folder / "model.pt2", torch.ones(2, 3), dynamic=({**rows},) if rows else None)


def save_nested(folder: Path) -> None:
    export(Nested(), folder / "model.pt2", {"a": torch.ones(2), "b": torch.ones(2)}, 3, plus=torch.ones(2))


def linear(folder: Path, **fields: Any) -> Any:
    return config(folder, "exported", [spec("x", 3)], [spec("y", 3), spec("s", 1)], **fields)


def check_linear(backend: Any, name: str = "x") -> None:
    sent = [np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32) for rows in (1, 2, 5)]
    for array, answer in zip(sent, answers(backend, [request(**named(name, array)) for array in sent]), strict=True):
        first, second = arrays(answer).values()
        np.testing.assert_allclose(first, array * 2 + 1, rtol=1e-6)
        np.testing.assert_allclose(second, array.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)
    (alone,) = answers(backend, [request(**named(name, sent[0]))])
    np.testing.assert_allclose(next(iter(arrays(alone).values())), sent[0] * 2 + 1, rtol=1e-6)


def test_a_program_answers_batches(tmp_path: Path) -> None:
    save_linear(tmp_path)
    check_linear(loaded(linear(tmp_path)))


@pytest.mark.parametrize("name", ["INPUT__0", "ARGS[0]", "anything"])
def test_inputs_by_name_number_or_order(tmp_path: Path, name: str) -> None:
    save_linear(tmp_path)
    check_linear(loaded(config(tmp_path, "exported", [spec(name, 3)], [spec("y", 3), spec("s", 1)])), name)


@pytest.mark.parametrize("names", [("OUTPUT__1", "OUTPUT__0"), ("RESULT[1]", "RESULT[0]")])
def test_outputs_by_number(tmp_path: Path, names: tuple[str, str]) -> None:
    save_linear(tmp_path)
    backend = loaded(config(tmp_path, "exported", [spec("x", 3)], [spec(names[0], 1), spec(names[1], 3)]))
    (answer,) = answers(backend, [request(x=np.ones((1, 3), np.float32))])
    assert {name: array.tolist() for name, array in arrays(answer).items()} == {names[0]: [[3.0]], names[1]: [[3.0] * 3]}


@pytest.mark.parametrize(
    "names", [("a", "b", "plus"), ("both_a", "both_b", "plus__2"), ("i__0", "i__1", "i__2"), ("a", "b", "KWARGS[plus]")]
)
def test_tensors_inside_of_arguments_are_inputs_of_their_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    save_nested(tmp_path)
    outputs = [spec("b", 2), spec("sum", 2)]
    backend = loaded(config(tmp_path, "exported", [spec(name, 2) for name in names], outputs, rows=0))
    sent: dict[str, Any] = {
        name: np.array([value, value], np.float32) for name, value in zip(names, (1, 10, 100), strict=True)
    }
    (answer,) = answers(backend, [request(**sent)])
    assert arrays(answer)["sum"].tolist() == [133.0, 133.0]
    assert arrays(answer)["b"].tolist() == [10.0, 10.0]


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
)
def test_every_datatype_passes(tmp_path: Path, dtype: str) -> None:
    example = torch.ones(2, 2).to(getattr(torch, dtype))
    export(Typed(), tmp_path / "model.pt2", example, dynamic=({0: Dim("n")},))
    datatype = describe(tmp_path / "model.pt2", "exported")["inputs"][0]["datatype"]
    backend = loaded(config(tmp_path, "exported", [spec("input", 2, datatype=datatype)], [spec("y", 2, datatype=datatype)]))
    data = b"\x01" + bytes(example.element_size() * 2 - 1)
    (answer,) = answers(backend, [Request(tensors=[Tensor("input", datatype, (1, 2), data)])])
    assert answer.error is None
    assert (answer.tensors[0].datatype, bytes(answer.tensors[0].data)) == (datatype, data)


def test_what_the_configuration_says_is_compared_with_the_program(tmp_path: Path) -> None:
    save_linear(tmp_path)
    model = linear(tmp_path)
    for wrong, text in [
        (replace(model, inputs=(spec("x", 4),)), r"tensor 'x': the model expects 2 dimensions \(shape \[-1, 3\]\)"),
        (replace(model, inputs=(spec("x", 3, 1),)), "specifies 3 dimensions"),
        (
            replace(model, inputs=(spec("x", 3, datatype="INT64"),)),
            "input 'x' of model 'm' is FP32, but configured as INT64",
        ),
        (replace(model, outputs=(spec("y", 3), spec("s", 2))), r"tensor 's': .*shape \[-1, 1\]"),
        (replace(model, outputs=(spec("y", 3, datatype="FP16"), spec("s", 1))), "output 'y' of model 'm' is FP32"),
        (replace(model, inputs=(spec("x", 3), spec("z", 3))), "takes the inputs x; its configuration names x, z"),
        (replace(model, max_batch_size=65), "exported for at most 64 rows .* max_batch_size is 65: lower it"),
    ]:
        with pytest.raises(CannotLoad, match=text):
            loaded(wrong)
    with pytest.raises(WarmupFailed, match="returned 2 outputs, its configuration names 1"):
        loaded(replace(model, outputs=model.outputs[:1]))


def test_a_scalar_is_one_element_to_clients(tmp_path: Path) -> None:
    export(Typed(), tmp_path / "model.pt2", torch.tensor(1.0))
    assert [each["shape"] for each in describe(tmp_path / "model.pt2", "exported")["inputs"]] == [[]]
    backend = loaded(config(tmp_path, "exported", [spec("input", 1)], [spec("y", 1)], rows=0))
    (answer,) = answers(backend, [request(input=np.array([2.5], np.float32))])
    assert arrays(answer)["y"].tolist() == [2.5]
    with pytest.raises(CannotLoad, match="the model expects 0 dimensions"):
        loaded(config(tmp_path, "exported", [spec("input", 3)], [spec("y", 1)], rows=0))


def test_a_fixed_first_size_is_no_batch_axis(tmp_path: Path) -> None:
    save_linear(tmp_path, rows=None)
    with pytest.raises(CannotLoad, match="an initial batch dimension because max_batch_size > 0"):
        loaded(linear(tmp_path))
    backend = loaded(config(tmp_path, "exported", [spec("x", 2, 3)], [spec("y", 2, 3), spec("s", 2, 1)], rows=0))
    (answer,) = answers(backend, [request(x=np.ones((2, 3), np.float32))])
    assert arrays(answer)["y"].shape == (2, 3)


def test_a_program_tells_names_types_and_shapes(tmp_path: Path) -> None:
    save_linear(tmp_path)
    assert describe(tmp_path / "model.pt2", "exported") == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [
            {"name": "OUTPUT__0", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "OUTPUT__1", "datatype": "FP32", "shape": [-1, 1]},
        ],
    }
    save_nested(tmp_path)
    found = describe(tmp_path / "model.pt2", "exported")
    assert [each["name"] for each in found["inputs"]] == ["a", "b", "plus"]
    assert [each["name"] for each in found["outputs"]] == ["sum", "b"]


def test_a_file_that_is_no_program_says_so(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=r"model\.pt2 does not exist"):
        loaded(linear(tmp_path))
    (tmp_path / "model.pt2").write_bytes(b"junk")
    with pytest.raises(CannotLoad, match=r"model\.pt2 is neither a torch\.export program nor an AOTInductor package"):
        loaded(linear(tmp_path))
    torch.save({"x": torch.ones(1)}, tmp_path / "model.pt2")
    with pytest.raises(CannotLoad, match=r"cannot be loaded by torch .* may have to be exported anew"):
        loaded(linear(tmp_path))


# -- packages of AOTInductor ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled `Linear`."""
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs g++")
    if not os.environ.get("JITNEY_SLOW_TESTS"):
        pytest.skip("compiling with g++ takes a minute; set JITNEY_SLOW_TESTS to run it")
    folder = tmp_path_factory.mktemp("package")
    program = save_linear(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about itself
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / "model.pt2"),
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False},
        )
    return folder


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """What lies in the folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return lambda: [path.name for path in folder.iterdir()]


@pytest.mark.slow
def test_a_package_answers_batches(package: Path, unpacked: Callable[[], list[str]]) -> None:
    backend = loaded(linear(package))
    assert unpacked() == [], "a killed worker leaves nothing"
    check_linear(backend)
    for name in ("INPUT__0", "ARGS[0]"):
        check_linear(loaded(config(package, "exported", [spec(name, 3)], [spec("y", 3), spec("s", 1)])), name)
    backend.unload()
    assert describe(package / "model.pt2", "exported") == {
        "inputs": [{"name": "INPUT__0", "datatype": "", "shape": None}],
        "outputs": [{"name": f"OUTPUT__{n}", "datatype": "", "shape": None} for n in range(2)],
    }


@pytest.mark.slow
def test_a_package_does_not_read_beyond_its_inputs(package: Path) -> None:
    """Where warm-up cannot guess, a wrong size is an error of its request."""
    model = replace(linear(package), inputs=(spec("x", -1),))
    backend = loaded(model)
    wide, right = answers(backend, [request(x=np.ones((2, n), np.float32)) for n in (4, 3)])
    assert wide.error is not None
    assert "unmatched dim value at 1, expected: 3, but got: 4" in wide.error.message
    assert arrays(right)["y"].shape == (2, 3)


@pytest.mark.slow
def test_a_package_that_contradicts_its_configuration_is_refused_at_load(package: Path) -> None:
    model = linear(package)
    for wrong, text in [
        (replace(model, inputs=(spec("x", 4),)), "unmatched dim value at 1, expected: 3, but got: 4"),
        (replace(model, inputs=(spec("x", 3, datatype="FP64"),)), "unmatched dtype"),
        (replace(model, inputs=(spec("x", 3), spec("z", 3))), "takes the inputs INPUT__0; its configuration names x, z"),
        (replace(model, max_batch_size=65), "dim value is too large at 0"),
        (replace(model, outputs=(spec("y", 3), spec("s", 1, datatype="INT8"))), "unexpected datatype FP32"),
    ]:
        with pytest.raises((CannotLoad, WarmupFailed), match=text):
            loaded(wrong)
