"""`BaseEnvelope`: a request format around a handler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class BaseEnvelope(ABC):
    """`parse_input` turns the batch into what the handler gets, `format_output` its results into one answer a request."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        self.context = context
        return self.format_output(self._handle_fn(self.parse_input(data), context))

    @abstractmethod
    def parse_input(self, data: Any) -> Any:
        """What the handler gets as `data`."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """One element for each request, from what the handler returned."""

    def _is_explain(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "explain") == "True"
