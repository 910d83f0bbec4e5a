"""Builds the weights of the shipped models: `python -m jitney.tools.dev.build_models` (`make models`).

    --repository DIR          where to build (default: model_repository of this checkout); configurations and sources of
                              missing models are copied there
    --models a,b              only these
    --resnet152-weights FILE  a state dict for ResNet-152 with torchvision's names, such as resnet152-394f9c45.pth;
                              without it resnet152 gets seeded weights, which answer nonsense at the right speed
    --force                   build even what is up to date

A model is up to date when nothing it is built from changed since: what that was stands in `.cache/models/`. Weights once
loaded from a file are kept until `--force` or another file. The digits' held-out images go to `.cache/digits/`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "model_repository"
CACHE = ROOT / ".cache"
SEEDED = "seeded"
WEIGHTS = (".onnx", ".pt", ".safetensors")


class BuildFailed(RuntimeError):
    """A model cannot be built; the text says which and why."""


@dataclass(frozen=True)
class Recipe:
    """How one model's weights are made: `make(target, options)` writes the file and tells in a few words what it did.

    `file` is relative to the model's folder, `sources` are what it depends on besides that folder.
    """

    file: str
    make: Callable[[Path, Options], str]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What the command line asked for; `resnet152_weights` None = none given."""

    repository: Path = SHIPPED
    resnet152_weights: Path | None = None
    force: bool = False


@cache
def _digits_network(folder: Path) -> torch.nn.Module:
    """Trained once for the three formats."""
    from . import digits

    say("  training on 1437 handwritten digits")
    network = digits.train(folder, lambda text: say(f"  {text}"))
    count = digits.write_held_out(CACHE / "digits")
    share = digits.accuracy(network, folder)
    say(f"  {share:.1%} of the {count} held-out images are right")
    if share < 0.97:
        raise BuildFailed(f"the digits network finds only {share:.1%} of the held-out images, expected at least 97 %")
    return network


def _digits(save: str) -> Callable[[Path, Options], str]:
    def make(target: Path, options: Options) -> str:
        from . import digits

        getattr(digits, save)(_digits_network(SHIPPED / "digits_eager"), target)
        return "trained on scikit-learn's handwritten digits"

    return make


def _resnet152(target: Path, options: Options) -> str:
    """Seeded weights, or those of a file after checking that they fit."""
    from safetensors.torch import save_file

    from ...backends.eager import read_state_dict
    from . import resnet

    file = options.resnet152_weights
    if file is None:
        model = resnet.seeded(152)
    else:
        model = resnet.ResNet(152)
        try:
            model.load_state_dict(read_state_dict(file), strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise BuildFailed(f"{file} does not hold ResNet-152's weights: {' '.join(str(error).split())}") from None
    save_file(model.state_dict(), target)
    return f"weights of {file}" if file else "seeded weights (--resnet152-weights FILE takes real ones)"


_DIGITS_SOURCES = (
    "tools/dev/digits.py",
    "model_repository/digits_eager/1/model.py",
    "model_repository/digits_eager/config.pbtxt",
)
RECIPES: dict[str, Recipe] = {
    "digits_eager": Recipe("1/model.pt", _digits("save_eager"), _DIGITS_SOURCES),
    "digits_torchscript": Recipe("1/model.pt", _digits("save_torchscript"), _DIGITS_SOURCES),
    "digits_onnx": Recipe("1/model.onnx", _digits("save_onnx"), _DIGITS_SOURCES),
    "resnet152": Recipe("1/model.safetensors", _resnet152, ("tools/dev/resnet.py",)),
}


def say(text: str) -> None:
    print(text, flush=True)


def build(names: Sequence[str], options: Options) -> None:
    """Builds each named model where it is not up to date. Raises BuildFailed."""
    for name in names:
        began = time.monotonic()
        told = build_one(name, options)
        say(f"{name}: {told} ({time.monotonic() - began:.1f} s)")


def build_one(name: str, options: Options) -> str:
    """Builds one model; what was done, in a few words."""
    recipe = RECIPES[name]
    folder = options.repository / name
    _copy_sources(SHIPPED / name, folder)
    target, record = folder / recipe.file, _record(folder)
    known = _known(record)
    if name == "resnet152":
        options = _with_known_weights(options, known)
    origin = _origin(options.resnet152_weights) if name == "resnet152" else ""
    if not options.force and target.is_file() and _stamp(target, recipe, origin) == known.get("stamp"):
        return "up to date" + (f", {known['told']}" if name == "resnet152" else "")
    say(f"{name}: building {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target and with its suffix: writers choose formats by suffix, and a rename replaces it in one step
    partial = target.with_name(f".partial{os.getpid()}{target.suffix}")
    try:
        told = recipe.make(partial, options)
        partial.chmod(0o644)  # safetensors writes for its owner only
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    weights = options.resnet152_weights if name == "resnet152" else None
    _write(record, {"stamp": _stamp(target, recipe, origin), "weights": str(weights or ""), "told": told})
    return told


def _copy_sources(shipped: Path, folder: Path) -> None:
    """Completes `folder` with the shipped model's configuration and sources; what is there stays."""
    if shipped == folder:
        return
    for source in sorted(path for path in shipped.rglob("*") if path.is_file()):
        target = folder / source.relative_to(shipped)
        if source.suffix in WEIGHTS or "__pycache__" in source.parts or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _with_known_weights(options: Options, known: dict[str, Any]) -> Options:
    """Without a file on the command line, the one that was used last, while it exists."""
    last = Path(known.get("weights") or "")
    if options.force or options.resnet152_weights is not None or not last.name or not last.is_file():
        return options
    return Options(options.repository, last, options.force)


def _origin(file: Path | None) -> str:
    """Tells one weight file from another without reading it."""
    if file is None:
        return SEEDED
    status = file.stat()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"


def _stamp(target: Path, recipe: Recipe, origin: str) -> str:
    """A digest of all that the file is made from, and of which file it is."""
    status = target.stat()
    digest = hashlib.sha256(f"{origin}|{status.st_size}|{status.st_mtime_ns}".encode())
    for source in recipe.sources:
        digest.update((ROOT / source).read_bytes())
    for package in ("torch", "onnx", "scikit-learn", "safetensors"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def _record(folder: Path) -> Path:
    """Where it is kept what a model was built from; one file for each folder that was ever built."""
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return CACHE / "models" / f"{folder.name}-{key}.json"


def _known(record: Path) -> dict[str, Any]:
    try:
        known = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(record: Path, known: dict[str, Any]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(known, indent=2) + "\n")


def parse(arguments: Sequence[str] | None) -> tuple[list[str], Options]:
    parser = argparse.ArgumentParser(
        prog="python -m jitney.tools.dev.build_models", description="Build the shipped models' weights."
    )
    parser.add_argument(
        "--repository", type=Path, default=SHIPPED, metavar="DIR", help="where to build (default: %(default)s)"
    )
    parser.add_argument("--models", default=",".join(RECIPES), metavar="A,B", help="only these (default: %(default)s)")
    parser.add_argument("--resnet152-weights", type=Path, metavar="FILE", help="a state dict with torchvision's names")
    parser.add_argument("--force", action="store_true", help="build even what is up to date")
    given = parser.parse_args(arguments)
    names = [name.strip() for name in given.models.split(",") if name.strip()]
    for name in names:
        if name not in RECIPES:
            parser.error(f"no model '{name}'; expected some of {', '.join(RECIPES)}")
    if given.resnet152_weights is not None and not given.resnet152_weights.is_file():
        parser.error(f"--resnet152-weights: {given.resnet152_weights} does not exist")
    return names, Options(given.repository.resolve(), given.resnet152_weights, given.force)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 where a model cannot be built."""
    names, options = parse(arguments)
    try:
        build(names, options)
    except (BuildFailed, OSError) as error:
        print(f"cannot build the models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
