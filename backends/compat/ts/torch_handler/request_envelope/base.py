"""`BaseEnvelope`: a request format around a handler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class BaseEnvelope(ABC):
    """`parse_input` turns the batch into what the handler gets, `format_output` its results into one answer a request.

    As in TorchServe's `request_envelope/base.py`, nothing is unpacked where there is no data, and nothing packed where the
    handler returned nothing: None and [] go on as they are, and the server says that they are no answers.
    """

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        self.context = context
        results = self._handle_fn(self.parse_input(data) if data else data, context)
        return results if _is_nothing(results) else self.format_output(results)

    @abstractmethod
    def parse_input(self, data: Any) -> Any:
        """What the handler gets as `data`."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """One element for each request, from what the handler returned."""

    def _is_explain(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "explain") == "True"


def _is_nothing(results: Any) -> bool:
    """Arrays and tensors have no truth value, and are results."""
    return results is None or (isinstance(results, list | tuple | dict | str | bytes) and not results)
