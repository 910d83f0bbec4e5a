"""Helpers that handlers import: streaming, classes by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class with a dotted name, below `module_prefix` where given."""
    path = f"{module_prefix}.{class_name}" if module_prefix else class_name
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(f"'{class_name}' names no module; expected module.Class")
    return getattr(importlib.import_module(module), name)


def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Any = None
) -> None:
    """Sends one chunk to each request of the running batch at once; the handler's return value is the last chunk.

    `ret` holds one element for each request, in the forms that a handler may return. A `code` other than 200 ends the
    requests with an error of that status and `message`.
    """
    send = getattr(context, "_send", None)
    if send is None:
        raise RuntimeError("intermediate responses can be sent while a batch is being handled only, with its context")
    if len(ret) != len(req_id_map):
        raise ValueError(f"{len(ret)} intermediate responses for {len(req_id_map)} requests")
    send(ret, message, code)
