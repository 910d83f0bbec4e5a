"""TorchScript models against the modules they were scripted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jitney.backends.options import CannotLoad
from jitney.backends.torchscript import TorchScriptBackend, quiet_jit
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec


class Pair(torch.nn.Module):
    """Two named inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(a - b), a + b


class ByName(torch.nn.Module):
    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": inputs["p"] - inputs["q"], "unused": inputs["p"]}


class Upper(torch.nn.Module):
    def forward(self, texts: list[str]) -> list[str]:
        return [text.upper() for text in texts]


class Picky(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(torch.isnan(x).any()):
            raise RuntimeError("NaN in the input")
        return x + 1


class Flat(torch.nn.Module):
    """Has no batch axis: always answers one row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0, keepdim=True)


def save(folder: Path, module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    with quiet_jit():
        torch.jit.script(module.eval()).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    return module


def pair(*names: str) -> dict[str, Any]:
    generator = np.random.default_rng(len(names[0]))
    return {name: generator.normal(size=(2, 4)).astype(np.float32) for name in names}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"freeze": "true"},
        {"optimize_for_inference": "true"},
        {"DISABLE_OPTIMIZED_EXECUTION": "true"},
        {"INFERENCE_MODE": "false"},
        {"ENABLE_JIT_PROFILING": "true", "ENABLE_JIT_EXECUTOR": "true"},
    ],
)
def test_inputs_by_argument_name(tmp_path: Path, parameters: dict[str, str]) -> None:
    module = save(tmp_path, Pair())
    outputs = [spec("first", 3), spec("second", 4)]
    backend = loaded(config(tmp_path, "torchscript", [spec("b", 4), spec("a", 4)], outputs, parameters=parameters))
    sent = [pair("a", "b"), pair("a", "b")]
    for given, answer in zip(sent, answers(backend, [request(**given) for given in sent]), strict=True):
        with torch.inference_mode():
            first, second = module(torch.from_numpy(given["a"]), torch.from_numpy(given["b"]))
        np.testing.assert_allclose(arrays(answer)["first"], first.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(arrays(answer)["second"], second.numpy())


def test_inputs_and_outputs_by_index(tmp_path: Path) -> None:
    save(tmp_path, Pair())
    inputs = [spec("INPUT__1", 4), spec("INPUT__0", 4)]
    backend = loaded(config(tmp_path, "torchscript", inputs, [spec("OUTPUT__1", 4), spec("OUTPUT__0", 3)]))
    given = pair("INPUT__0", "INPUT__1")
    (answer,) = answers(backend, [request(**given)])
    np.testing.assert_array_equal(arrays(answer)["OUTPUT__1"], given["INPUT__0"] + given["INPUT__1"])
    assert arrays(answer)["OUTPUT__0"].shape == (2, 3)


def test_one_dict_of_tensors(tmp_path: Path) -> None:
    save(tmp_path, ByName())
    backend = loaded(config(tmp_path, "torchscript", [spec("q", 4), spec("p", 4)], [spec("y", 4)]))
    given = pair("p", "q")
    (answer,) = answers(backend, [request(**given)])
    np.testing.assert_array_equal(arrays(answer)["y"], given["p"] - given["q"])


def test_strings(tmp_path: Path) -> None:
    save(tmp_path, Upper())
    text = [spec("texts", 1, datatype="BYTES")]
    backend = loaded(config(tmp_path, "torchscript", text, [spec("y", 1, datatype="BYTES")]))
    sent = [np.array([["über".encode()]], dtype=object), np.array([[b"a"], [b"b"]], dtype=object)]
    bad = np.array([[b"\xff"]], dtype=object)
    one, two, three = answers(backend, [request(texts=sent[0]), request(texts=bad), request(texts=sent[1])])
    assert arrays(one)["y"].tolist() == [["üBER".encode()]]  # torch upper-cases ASCII
    assert arrays(three)["y"].tolist() == [[b"A"], [b"B"]]
    assert two.error is not None
    assert two.error.code == "INVALID_ARG"
    assert "not UTF-8" in two.error.message


def test_one_poisoned_row_fails_alone(tmp_path: Path) -> None:
    save(tmp_path, Picky())
    backend = loaded(config(tmp_path, "torchscript", [spec("x", 2)], [spec("y", 2)]))
    sent = [np.full((1, 2), np.nan if index == 20 else index, np.float32) for index in range(32)]
    for index, answer in enumerate(answers(backend, [request(x=array) for array in sent])):
        if index == 20:
            assert answer.error is not None
            assert answer.error.message.startswith("PyTorch execute failure:")
            assert "NaN in the input" in answer.error.message
        else:
            np.testing.assert_array_equal(arrays(answer)["y"], sent[index] + 1)


def test_a_missing_batch_axis_is_told_at_load(tmp_path: Path) -> None:
    save(tmp_path, Flat())
    with pytest.raises(
        RuntimeError, match=r"output 'y' of model 'm' has shape \[1,2\] for a batch of 2 rows, expected \[2,2\]"
    ):
        loaded(config(tmp_path, "torchscript", [spec("x", 2)], [spec("y", 2)]))


def test_a_state_dict_is_not_torchscript(tmp_path: Path) -> None:
    for saved in (Pair().state_dict(), Pair()):
        torch.save(saved, tmp_path / "model.pt")
        with pytest.raises(CannotLoad, match=r"model\.pt cannot be loaded as TorchScript: it is what torch\.save wrote"):
            loaded(config(tmp_path, "torchscript", [spec("x", 2)], [spec("y", 2)]))
    (tmp_path / "model.pt").write_bytes(b"damaged")
    with pytest.raises(CannotLoad, match=r"model\.pt cannot be loaded as TorchScript: (?!it is what)"):
        loaded(config(tmp_path, "torchscript", [spec("x", 2)], [spec("y", 2)]))
    with pytest.raises(CannotLoad, match=r"other\.pt does not exist"):
        loaded(config(tmp_path, "torchscript", [spec("x", 2)], [spec("y", 2)], filename="other.pt"))


def test_indices_with_a_gap_are_refused(tmp_path: Path) -> None:
    save(tmp_path, Pair())
    with pytest.raises(CannotLoad, match=r"inputs of model 'm' end in \[0, 2\], expected each of 0\.\.1 once"):
        loaded(config(tmp_path, "torchscript", [spec("i__0", 4), spec("i__2", 4)], [spec("x", 3), spec("y", 4)]))


@pytest.mark.gpu
def test_on_cuda_the_answers_are_the_cpus(tmp_path: Path) -> None:
    module = save(tmp_path, Pair())
    backend = loaded(config(tmp_path, "torchscript", [spec("a", 4), spec("b", 4)], [spec("x", 3), spec("y", 4)]), gpu=0)
    assert isinstance(backend, TorchScriptBackend)
    given = pair("a", "b")
    (answer,) = answers(backend, [request(**given)])
    with torch.inference_mode():
        expected = module(torch.from_numpy(given["a"]), torch.from_numpy(given["b"]))[0]
    np.testing.assert_allclose(arrays(answer)["x"], expected.numpy(), atol=1e-3)
