"""Programs with operators of another package: one that a folder brings stands in for torchvision, which is not installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Registers operators as such packages do, under a name that is known to come from a package.
PACKAGE = """
import torch

library = torch.library.Library("torch_spline_conv", "DEF")
library.define("twice(Tensor x) -> Tensor")
library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
own = torch.library.Library("nobodys", "DEF")
own.define("twice(Tensor x) -> Tensor")
own.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
for name in ("torch_spline_conv::twice", "nobodys::twice"):
    torch.library.register_fake(name)(torch.empty_like)
"""
WRITE = """
import torch, torch_spline_conv

class Known(torch.nn.Module):
    def forward(self, x):
        return torch.ops.torch_spline_conv.twice(x) + 1

class Unknown(torch.nn.Module):
    def forward(self, x):
        return torch.ops.nobodys.twice(x) + 1

class Own(torch.nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x + 1, (x,))

class Sized(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.size(0), -1) * x.size(0)

torch.jit.trace(Sized(), torch.ones(2, 3)).save("own.pt")
torch.export.save(torch.export.export(Own(), (torch.ones(2, 3),)), "own.pt2")
for name, module in (("known", Known()), ("unknown", Unknown())):
    torch.jit.script(module).save(f"{name}.pt")
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),)), f"{name}.pt2")
"""
#: Prints, for each way to load each file, what the program answers to ones, or why it cannot be loaded.
READ = """
import json, sys
from pathlib import Path
import torch
from jitney.backends import handler_loader, operators, pt2, torchscript

handler_loader.prepare_imports(".")
own = {path: operators.register(Path(path)) for path in ("own.pt", "own.pt2")}
from ts.torch_handler import loading

cpu, found = torch.device("cpu"), own
for name in ("known", "unknown"):
    for way, load in {
        "torchscript": lambda: torchscript.load(Path(f"{name}.pt"), cpu),
        "exported": lambda: pt2.load(Path(f"{name}.pt2"), cpu),
        "handler": lambda: loading.load_torchscript(f"{name}.pt", cpu),
    }.items():
        try:
            found[f"{name} {way}"] = load()(torch.ones(2, 3))[0, 0].item()
        except Exception as error:
            found[f"{name} {way}"] = str(error)
print(json.dumps(found))
"""


def python(source: str, folder: Path, path: Path | None) -> str:
    """Runs a program, which torch.jit wants to be a file, with one more folder of packages; gives what it prints."""
    (folder / "program.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        [sys.executable, "-P", "program.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs, and beside them `packages`, which has what they need, `broken`, which cannot be imported."""
    path = tmp_path_factory.mktemp("operators")
    for name, source in (("packages", PACKAGE), ("broken", "raise OSError('libcudart.so.12: cannot open')")):
        (path / name / "torch_spline_conv").mkdir(parents=True)
        (path / name / "torch_spline_conv/__init__.py").write_text(source)
    python(WRITE, path, path / "packages")
    yield path


def loaded(folder: Path, packages: str = "") -> dict[str, float | str]:
    found: dict[str, float | str] = json.loads(python(READ, folder, folder / packages if packages else None))
    return found


def test_the_package_of_the_operators_is_imported(folder: Path) -> None:
    found = loaded(folder, "packages")
    assert {way: found[way] for way in found if way.startswith("known")} == dict.fromkeys(
        ("known torchscript", "known exported", "known handler"), 3.0
    )


def test_what_is_missing_is_named_and_torch_s_own_operators_are_not(folder: Path) -> None:
    found = loaded(folder)
    assert (found["own.pt"], found["own.pt2"]) == ("", "")
    for way in ("torchscript", "exported", "handler"):
        sentence = "It uses operators of 'torch_spline_conv': install the package that brings the module torch_spline_conv."
        assert str(found[f"known {way}"]).endswith(sentence)
        assert "It uses operators of 'nobodys', which no package that jitney knows" in str(found[f"unknown {way}"])


def test_a_package_that_cannot_be_imported_says_why(folder: Path) -> None:
    for way, text in loaded(folder, "broken").items():
        if way.startswith("known"):
            why = "importing torch_spline_conv failed with OSError: libcudart.so.12: cannot open."
            assert str(text).endswith(f"It uses operators of 'torch_spline_conv', but {why}")
