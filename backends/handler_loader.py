"""From a handler's name in a manifest to something that can be called (TorchServe's `ts/model_loader.py`)."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

COMPAT = Path(__file__).parent / "compat"
BUILT_IN = "ts.torch_handler"
ENVELOPES = ("body", "json", "kserve", "kservev2")

Handle = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Entry:
    """`initialize(context)` once, then `handle(data, context)` for each batch."""

    initialize: Callable[[Any], Any]
    handle: Handle


def prepare_imports(directory: str) -> None:
    """Puts the archive's folder and our `ts` in front of all other modules; `ts` wins, also over an installed torchserve.

    The Python programs that a handler starts (torchrun, scripts of the archive) find both too, as under TorchServe.
    """
    folders = [str(COMPAT), directory]
    sys.path[:] = folders + [folder for folder in sys.path if folder not in folders]
    inherited = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder and folder not in folders]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders + inherited)


def import_file(path: Path) -> ModuleType:
    """Imports a file by its stem, so that it can be imported again by that name.

    Where the name is one of Python's, or taken by another module, the file is imported as `handler_<stem>`.
    """
    name = path.stem
    if name in sys.stdlib_module_names or _taken(name, path):
        name = f"handler_{name}"
    if name in sys.modules and not _taken(name, path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python source")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _taken(name: str, path: Path) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return file is None or Path(file).resolve() != path.resolve()


def find_entry(directory: str, entry: str) -> Entry:
    """The entry point `module`, `module.py`, `folder/module.py`, `module:function`, or a built-in handler's name.

    A module with the function (`handle` where none is named) is called as `handle(None, context)` at load and then for each
    batch. Otherwise it must define exactly one class, or the one that is named: its `initialize` and `handle` are used.
    `handle` is looked up on the object for each batch, because handlers replace it (MicroBatching).
    """
    source, _, name = entry.partition(":")
    module = _import(Path(directory), source)
    target = getattr(module, name or "handle", None)
    if callable(target) and not inspect.isclass(target):
        return _function_entry(target)
    instance = (target if inspect.isclass(target) else _only_class(module, entry))()
    if not callable(getattr(instance, "handle", None)):
        raise ValueError(f"handler '{entry}': class {type(instance).__name__} has no method handle(data, context)")
    initialize = getattr(instance, "initialize", lambda context: None)
    return Entry(initialize, lambda data, context: instance.handle(data, context))  # noqa: PLW0108 - late look-up, see above


def _function_entry(function: Handle) -> Entry:
    return Entry(lambda context: function(None, context), function)


def _only_class(module: ModuleType, entry: str) -> type:
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    if len(classes) != 1:
        raise ValueError(
            f"Expected only one class in custom service code or a function entry point {classes} (handler '{entry}')"
        )
    return classes[0]


def _import(directory: Path, source: str) -> ModuleType:
    """The archive's own file, else a module or package that can be imported, else a built-in handler.

    Unlike TorchServe, an import that fails inside the user's module is reported as it is.
    """
    stem = Path(source).name.removesuffix(".py")
    for path in (directory / f"{stem}.py", directory / source):
        if path.suffix == ".py" and path.is_file():
            return import_file(path)
    if stem not in sys.stdlib_module_names and _exists(stem):
        return importlib.import_module(stem)
    name = f"{BUILT_IN}.{stem}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"{directory} holds no {stem}.py, and there is no built-in handler '{stem}'") from None


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # the parent of a dotted name is missing; an empty name
        return False


def find_envelope(name: str, handle: Handle) -> Handle:
    """`handle` inside the service envelope of that name ("" = none)."""
    if not name:
        return handle
    if name not in ENVELOPES:
        raise ValueError(f"unknown service envelope '{name}'; expected one of {', '.join(ENVELOPES)}")
    module = importlib.import_module(f"{BUILT_IN}.request_envelope.{name}")
    wrapped: Handle = _only_class(module, name)(handle).handle
    return wrapped
