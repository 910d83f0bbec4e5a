"""Operators that a program takes from other packages than torch: `torchvision::nms`, `torch_scatter::…`.

torch knows them only once their package was imported, and a program's file does not import anything. Triton links torchvision's
into its PyTorch backend, and TorchServe's vision handlers import torchvision. Here the packages in `PACKAGES` are imported where
a program names their operators or classes and they are installed; no other name in a file is ever imported.
"""

from __future__ import annotations

import importlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from .telling import text_of

#: Namespace of operators or classes -> the module that registers them.
PACKAGES: Mapping[str, str] = {
    "torchvision": "torchvision",
    "torchaudio": "torchaudio",
    "torchtext": "torchtext",
    "torch_scatter": "torch_scatter",
    "torch_sparse": "torch_sparse",
    "torch_cluster": "torch_cluster",
    "torch_spline_conv": "torch_spline_conv",
    "pyg": "pyg_lib",
    "detectron2": "detectron2",
    "fbgemm": "fbgemm_gpu",
    "torchao": "torchao",
    "xformers": "xformers",
    "tensorrt": "torch_tensorrt",
    "torch_ipex": "intel_extension_for_pytorch",
    "ipex_prepack": "intel_extension_for_pytorch",
    "neuron": "torch_neuronx",
}
#: Torch's own namespaces that its list of registered operators lacks.
_OF_TORCH = frozenset({"prim", "higher_order"})
#: `ops.NS.name` in TorchScript's code, `torch.ops.NS.name` in a program of torch.export, a class of a library.
_NAMED = re.compile(rb"(?:(?:(?<![.\w])|\btorch\.)ops|__torch__\.torch\.classes)\.(\w+)\.")


def register(path: Path) -> str:
    """Imports what registers the operators that the program in `path` names.

    Returns what is to be said if the program cannot be loaded all the same: a sentence for each namespace that is still unknown,
    each with a blank before it, or "".
    """
    missing = sorted(_used(path) - _known())
    failures = {}
    for name in missing:
        if name in PACKAGES:
            try:
                importlib.import_module(PACKAGES[name])
            except Exception as error:  # noqa: BLE001 - another package's code
                failures[name] = error
    known = _known()
    return "".join(_sentence(name, failures.get(name)) for name in missing if name not in known)


def _used(path: Path) -> set[str]:
    """Namespaces that the code or the graphs in a file of torch.jit, torch.export or AOTInductor name."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [archive.read(name) for name in archive.namelist() if name.endswith((".py", ".json"))]
    except (OSError, zipfile.BadZipFile):
        return set()  # whoever loads the file says what it is
    return {name.decode() for text in texts for name in _NAMED.findall(text)}


def _known() -> set[str]:
    """The namespaces of which operators are registered."""
    names: list[str] = torch._C._dispatch_get_all_op_names()
    return {*_OF_TORCH, *(name.partition("::")[0] for name in names)}


def _sentence(name: str, failure: Exception | None) -> str:
    if name not in PACKAGES:
        return (
            f" It uses operators of '{name}', which no package that jitney knows registers: a model.py that loads their "
            'library (torch.ops.load_library) and then the program can be served with backend: "python".'
        )
    module = PACKAGES[name]
    if isinstance(failure, ModuleNotFoundError) and failure.name == module:
        return f" It uses operators of '{name}': install the package that brings the module {module}."
    why = f"importing {module} failed with {type(failure).__name__}: {text_of(failure)}" if failure else f"{module} has none"
    return f" It uses operators of '{name}', but {why}."
