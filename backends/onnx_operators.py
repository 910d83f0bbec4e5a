"""Operators of the package onnxruntime-extensions: tokenizers, decoders of pictures and sound, pre- and post-processing as ONNX.

ONNX Runtime knows them once their library was registered for a session. Triton's users name the library in `model_operations`;
here it is the installed package's, for models that use its operators.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from .telling import text_of

#: Domains of the package's operators, as ONNX Runtime names them in what it refuses.
DOMAINS = ("ai.onnx.contrib", "com.microsoft.extensions")
PACKAGE = "onnxruntime_extensions"

Session = TypeVar("Session")


def with_extensions(make: Callable[[], Session], options: Any) -> Session:
    """The session that `make` gives with `options`; where the model needs the package's operators, they are registered in them.

    A RuntimeError holds what ONNX Runtime said, then what to install, or why the package cannot be used.
    """
    try:
        return make()
    except Exception as error:
        if not needs_extensions(error):
            raise
        try:
            options.register_custom_ops_library(importlib.import_module(PACKAGE).get_library_path())
        except Exception as problem:  # noqa: BLE001 - another package's code
            raise RuntimeError(f"{text_of(error)}. {_sentence(problem)}") from error
    return make()


def needs_extensions(error: Exception) -> bool:
    """Whether ONNX Runtime refuses a model for operators of the package."""
    text = text_of(error)
    return "is not a registered function/op" in text and any(f"{domain}:" in text for domain in DOMAINS)


def _sentence(problem: Exception) -> str:
    if isinstance(problem, ModuleNotFoundError) and problem.name == PACKAGE:
        return "This operator comes with the package onnxruntime-extensions: pip install onnxruntime-extensions"
    why = f"{type(problem).__name__}: {text_of(problem)}"
    return f"The package onnxruntime-extensions, which has this operator, cannot be used: {why}"
