"""Packages that come with an extra of jitney's, and what is said where one of them is missing."""

from __future__ import annotations

from .telling import text_of

#: Module -> the extra that installs its package (setup.py). Where there is a GPU, `gpu` stands for both.
EXTRA_OF = {"onnxruntime": "onnx", "torch": "torch", "safetensors": "torch"}


def explain(error: BaseException) -> str:
    """An exception as `Type: text`; for a missing package of an extra with the command that installs it."""
    text = f"{type(error).__name__}: {text_of(error)}"
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    module = (getattr(missing, "name", None) or "").partition(".")[0] if isinstance(missing, ModuleNotFoundError) else ""
    extra = EXTRA_OF.get(module)
    return f"{text}; install it with: pip install 'jitney[{extra}]'" if extra else text
