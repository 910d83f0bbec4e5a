"""Opening an ONNX Runtime session on the devices that were asked for, and on no others.

Where CUDA's libraries cannot be loaded ONNX Runtime makes a session that runs on the CPU and says why on stderr only; where the
provider itself fails, its Python package tries again without it. A model that was placed on a GPU must not be served from the CPU
in silence: both are refused here, with ONNX Runtime's reason.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from .onnx_operators import with_extensions
from .options import CannotLoad
from .telling import text_of

#: Packages that install the same module `onnxruntime`.
PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
#: A line of ONNX Runtime's log; errors hold the reason behind a path and a function of its own source.
_LINE = re.compile(r"^.*?\[(?P<level>[EW]):onnxruntime:[^\]]*\] (?P<text>.*)$")
_LIBRARY = re.compile(r"Failed to load library (?P<path>\S+) with error: (?P<why>.*)")
_log = logging.getLogger(__name__)

Provider = tuple[str, dict[str, Any]]


def open_session(path: Path, options: Any, providers: Sequence[Provider]) -> Any:
    """A session of the model in `path`; CannotLoad unless it has each of `providers`, names and options in order."""
    tell_shadowed()
    try:
        session = _made(path, options, providers)
    except Exception as error:
        raise CannotLoad(f"{path} cannot be loaded: {error_text(error)}{shadowed()}") from error
    missing = [name for name, _ in providers if name not in session.get_providers()]
    if missing:
        heard = _heard(lambda: _made(path, options, providers))
        raise CannotLoad(
            f"{path} is placed on a GPU, but onnxruntime {ort.__version__} cannot use its {missing[0]} and would run it on the "
            f"CPU: {_reason(heard) or 'it does not say why'}. Install what is missing (pip install 'jitney[gpu]' brings CUDA and "
            f"cuDNN), or write kind: KIND_CPU{shadowed()}"
        )
    session.disable_fallback()
    return session


def _made(path: Path, options: Any, providers: Sequence[Provider]) -> Any:
    return with_extensions(
        lambda: ort.InferenceSession(path, options, providers=list(providers), enable_fallback=0), options
    )


def error_text(error: Exception) -> str:
    """An exception of ONNX Runtime in the words that Triton's users know: `onnx runtime error <code>: <text>`."""
    text = text_of(error)
    match = re.search(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", text, re.DOTALL)
    return f"onnx runtime error {match[1]}: {match[2]}" if match else f"onnx runtime error: {text}"


# -- two packages, one module ----------------------------------------------------------------------------------------------


def installed() -> list[str]:
    """The packages whose files lie in the folder of the module `onnxruntime`, with their versions.

    Their records lie beside it; importlib.metadata would take a worker a tenth of its start.
    """
    found = []
    for record in sorted(Path(ort.__file__).parents[1].glob("o*-*.dist-info")):
        name, _, version = record.name.removesuffix(".dist-info").partition("-")
        if name.replace("_", "-") in PACKAGES:
            found.append(f"{name.replace('_', '-')} {version}")
    return found


def shadowed() -> str:
    """A sentence about packages that share the module's folder, "" where there is only one."""
    found = installed()
    if len(found) < 2:
        return ""
    return (
        f". {' and '.join(found)} are installed in the same folder, and the one that came last has overwritten the other's "
        "files: uninstall all of them, then install the one that you want"
    )


def tell_shadowed() -> None:
    """Logs that sentence."""
    if sentence := shadowed():
        _log.warning("%s", sentence.removeprefix(". "))


# -- what ONNX Runtime says ------------------------------------------------------------------------------------------------


def _heard(action: Callable[[], Any]) -> str:
    """What an action writes to stderr, below Python too; its exception is its last line."""
    with _stderr() as heard:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - it is what is wanted
            os.write(2, f"[E:onnxruntime:] {text_of(error)}\n".encode())
    return heard.getvalue()


@contextlib.contextmanager
def _stderr() -> Iterator[io.StringIO]:
    """Takes what this process writes to descriptor 2; the text is complete at the end."""
    heard, kept, memory = io.StringIO(), os.dup(2), os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        os.dup2(memory, 2)
        try:
            yield heard
        finally:
            os.dup2(kept, 2)
            heard.write(os.pread(memory, 1 << 20, 0).decode(errors="replace"))
    finally:
        os.close(kept)
        os.close(memory)


def _reason(heard: str) -> str:
    """The first error that ONNX Runtime told, without its own place in the source; else its first warning."""
    lines = [match for line in _COLOURS.sub("", heard).splitlines() if (match := _LINE.match(line))]
    for line in sorted(lines, key=lambda match: match["level"]):
        library = _LIBRARY.search(line["text"])
        if library:
            return f"{Path(library['path']).name} cannot be loaded: {library['why'].strip()}"
        if line["level"] == "E":
            return line["text"].strip()
    return lines[-1]["text"].strip() if lines else ""
