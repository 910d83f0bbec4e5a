"""`.pt2` files: programs of torch.export, and packages that AOTInductor compiled from them, as callables that know their inputs.

Both take tensors by the names and the order of the exported function. A tensor inside of an argument (a dict, a list) is an
input of its own, under its key where it has one. Values that were fixed when the program was exported (numbers, None) are no
inputs. A package does not tell the names of positional arguments, datatypes or shapes: its inputs are `INPUT__0`, …

Triton's names for these (`ARGS[0]`, `KWARGS[key]`) are taken too.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree

from . import operators
from .memory import is_out_of_memory
from .options import CannotLoad
from .torch_values import DATATYPES

COMPILED = "/data/aotinductor/"


@dataclass(frozen=True)
class Value:
    """A tensor of a program. `shape` has -1 for sizes that may differ; "" and None where the file does not tell.

    `most` is the largest size that the first axis may have, where it is bounded.
    """

    name: str
    datatype: str = ""
    shape: tuple[int, ...] | None = None
    most: int | None = None


@dataclass(frozen=True)
class _Leaf:
    """A place among the flattened arguments: an input, or a value that is fixed."""

    value: Value | None
    alias: str = ""
    fixed: Any = None


class Program:
    """A callable of tensors by name or in order. `is_compiled`: AOTInductor's, for one kind of device."""

    def __init__(
        self, run: Callable[..., Any], spec: Any, leaves: Sequence[_Leaf], outputs: Sequence[Value], is_compiled: bool
    ) -> None:
        self._run, self._spec, self._leaves = run, spec, leaves
        self.outputs, self.is_compiled = tuple(outputs), is_compiled
        self.inputs = tuple(leaf.value for leaf in leaves if leaf.value is not None)
        self._places: dict[str, int] = {}
        self._order = [place for place, leaf in enumerate(leaves) if leaf.value is not None]
        for place, leaf in enumerate(leaves):
            if leaf.value is not None:
                self._places.setdefault(leaf.alias, place)
                self._places[leaf.value.name] = place

    @property
    def names(self) -> tuple[str, ...]:
        """All names by which inputs can be given."""
        return tuple(self._places)

    def input(self, name: str) -> Value | None:
        place = self._places.get(name)
        return None if place is None else self._leaves[place].value

    def __call__(self, *tensors: Any, **named: Any) -> Any:
        flat = [leaf.fixed for leaf in self._leaves]
        for place, tensor in zip(self._order, tensors, strict=False):
            flat[place] = tensor
        for name, tensor in named.items():
            flat[self._places[name]] = tensor
        arguments, keywords = pytree.tree_unflatten(flat, self._spec)
        return self._run(*arguments, **keywords)


def compiled_for(path: Path) -> str:
    """The kind of device ("cpu", "cuda") of a package of AOTInductor; "" for a program. CannotLoad where the file is neither."""
    if not path.is_file():
        raise CannotLoad(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            documents = [json.loads(archive.read(name)) for name in names if name.endswith("wrapper_metadata.json")]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CannotLoad(f"{path} is neither a torch.export program nor an AOTInductor package: {error}") from None
    if not any(COMPILED in name for name in names):
        return ""
    return str(documents[0].get("AOTI_DEVICE_KEY", "cpu")) if documents else "cpu"


def load(path: Path, device: torch.device) -> Program:
    """The program or package in `path`, on `device`; CannotLoad names what it is instead."""
    kind = compiled_for(path)
    if kind not in ("", device.type):
        raise CannotLoad(
            f"{path} was compiled for {kind} and cannot run on {device.type}: set the kind of its instance_group to "
            f"{'KIND_CPU' if kind == 'cpu' else 'KIND_GPU'}, or compile it for {device.type}"
        )
    advice = operators.register(path)
    try:
        return _load_package(path, device) if kind else _load_exported(path, device)
    except CannotLoad:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = f"{path} cannot be loaded by torch {torch.__version__}: {error}"
        raise CannotLoad(f"{text} (files of another version of torch may have to be exported anew){advice}") from error


def _load_exported(path: Path, device: torch.device) -> Program:
    program = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    limits = {str(symbol): limit for symbol, limit in program.range_constraints.items()}
    paths = _paths(program.call_spec.in_spec)
    arguments = [each.arg for each in program.graph_signature.input_specs if each.kind.name == "USER_INPUT"]
    leaves = [
        _exported_leaf(path, name, argument, _alias(key), values, limits)
        for name, argument, key in zip(_names(paths, arguments), arguments, paths, strict=True)
    ]
    outputs = [
        _value(name, values.get(getattr(spec.arg, "name", "")), limits)
        for spec, name in zip(
            [each for each in program.graph_signature.output_specs if each.kind.name == "USER_OUTPUT"],
            _output_names(program.call_spec.out_spec),
            strict=True,
        )
    ]
    return Program(program.module(), program.call_spec.in_spec, leaves, outputs, is_compiled=False)


def _exported_leaf(
    path: Path, name: str, argument: Any, alias: str, values: Mapping[str, Any], limits: Mapping[str, Any]
) -> _Leaf:
    if type(argument).__name__ == "ConstantArgument":
        return _Leaf(None, fixed=argument.value)
    found = values.get(argument.name)
    if not isinstance(found, torch.Tensor):
        raise CannotLoad(f"{path} takes a number as '{argument.name}'; export it as a tensor, or as a constant")
    return _Leaf(_value(name, found, limits), alias)


def _value(name: str, found: Any, limits: Mapping[str, Any]) -> Value:
    if not isinstance(found, torch.Tensor):
        return Value(name)
    shape = tuple(size if isinstance(size, int) else -1 for size in found.shape)
    limit = limits.get(str(found.shape[0])) if shape and shape[0] == -1 else None
    most = str(getattr(limit, "upper", ""))  # "int_oo" where there is no bound
    return Value(name, DATATYPES.get(found.dtype, str(found.dtype)), shape, int(most) if most.isdecimal() else None)


def _load_package(path: Path, device: torch.device) -> Program:
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"  # else tensors of other shapes are read beyond their end
    with _unpacked_to(device):
        package = torch._inductor.aoti_load_package(path, device_index=-1 if device.type == "cpu" else device.index or 0)
    in_spec, out_spec = (pytree.treespec_loads(text) for text in package.loader.get_call_spec())
    paths = _paths(in_spec)
    leaves = [_Leaf(Value(name), _alias(key)) for name, key in zip(_names(paths), paths, strict=True)]
    return Program(package, in_spec, leaves, [Value(name) for name in _output_names(out_spec)], is_compiled=True)


@contextmanager
def _unpacked_to(device: torch.device) -> Iterator[None]:
    """A folder of its own for what torch unpacks, which it would leave behind when a worker is killed.

    On the CPU everything is mapped once it is loaded, and the folder can go; CUDA kernels are read when they are first used.
    """
    if device.type != "cpu":
        yield
        return
    before, own = os.environ.get("TMPDIR"), tempfile.mkdtemp(prefix="jitney-pt2-")
    os.environ["TMPDIR"] = own
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(own, ignore_errors=True)


def _paths(spec: Any) -> list[Sequence[Any]]:
    """Where each flattened argument stands: (0, position, …) or (1, keyword, …)."""
    numbered = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return [path for path, _ in pytree.tree_flatten_with_path(numbered)[0]]


def _names(paths: Sequence[Sequence[Any]], arguments: Sequence[Any] = ()) -> list[str]:
    """The inputs' names: keys, else the names of the function's arguments, else numbers; keys only where they differ."""
    places = [argument.name for argument in arguments] or [f"INPUT__{place}" for place in range(len(paths))]
    keys = [_last_key(path) or name for path, name in zip(paths, places, strict=True)]
    return keys if len(set(keys)) == len(keys) else places


def _last_key(path: Sequence[Any]) -> str:
    """The key of a keyword argument or of an element of a dict; "" for what has a position only."""
    key = getattr(path[-1], "key", None)
    return key if isinstance(key, str) else ""


def _alias(path: Sequence[Any]) -> str:
    """Triton's name (platform torch_aoti)."""
    first, second = path[0].idx, path[1]
    return f"KWARGS[{second.key}]" if first else f"ARGS[{second.idx}]"


def _output_names(spec: Any) -> list[str]:
    """The keys where the program returns a dict, else `OUTPUT__0`, …"""
    if spec.type is dict:
        return [str(key) for key in spec.context]
    return [f"OUTPUT__{place}" for place in range(spec.num_leaves)]
