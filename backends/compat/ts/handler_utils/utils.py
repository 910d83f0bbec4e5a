"""Helpers that handlers import: streaming, classes by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..context import Context
from ..protocol.otf_message_handler import create_predict_response, send_chunk

__all__ = ["Context", "create_predict_response", "import_class", "send_intermediate_predict_response"]


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class with a dotted name, below `module_prefix` where given; ImportError names what is missing."""
    module_name, _, name = f"{module_prefix}.{class_name}".rpartition(".") if module_prefix else class_name.rpartition(".")
    if not module_name or not name:
        raise ImportError(f"'{class_name}' names no module and class; expected module.Class")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise ImportError(f"module {module_name} has no class {name}")
    return getattr(module, name)


def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Any = None
) -> None:
    """Sends one chunk to each request of the running batch at once; the handler's return value is the last chunk.

    `ret` holds one element for each request, in the forms that a handler may return. A `code` other than 200 ends the
    requests with an error of that status and `message`.
    """
    send_chunk(ret, req_id_map, message, code, context)
