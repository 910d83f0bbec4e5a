"""Loading, unloading and asking for other models, and where this model lives.

Whatever goes wrong raises TritonModelException (pb_stub_utils' ModelLoader): the server's refusals, and what cannot be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._arguments import WrongArgument, text
from ._errors import TritonModelException
from ._worker import current

#: What an exception begins with, in Triton's words.
_FAILED = {
    "load": "Failed to load model: failed to load '{}'",
    "unload": "Failed to unload model '{}'",
    "is_ready": "Failed to check model readiness of '{}'",
}


def get_model_dir() -> str:
    """The folder of the version that runs here."""
    return current().directory


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    return bool(_ask("is_ready", model_name, {"version": text(model_version, "model_version")}))


def load_model(model_name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
    """Loads or reloads a model of the repository; needs the model control mode "explicit"."""
    _ask("load", model_name, {"config": text(config, "config"), "files": _files(files)})


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    _ask("unload", model_name, {"unload_dependents": bool(unload_dependents)})


def _ask(verb: str, model_name: str, arguments: dict[str, Any]) -> Any:
    name = text(model_name, "model_name")
    try:
        return current().host.control(verb, name, arguments)
    except TritonModelException:
        raise
    except Exception as error:
        raise TritonModelException(f"{_FAILED[verb].format(name)}: {error}") from error


def _files(files: Any) -> dict[str, bytes]:
    """Paths and contents: each may be text or bytes, as in Triton."""
    if files is None:
        return {}
    if not isinstance(files, Mapping):
        raise WrongArgument(f"files must be a dict of paths and contents, got {type(files).__name__}")
    return {text(path, "a file's path"): _content(path, content) for path, content in files.items()}


def _content(path: Any, content: Any) -> bytes:
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    return text(content, f"the content of file {path!r}").encode()
