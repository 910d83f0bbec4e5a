"""Envelopes whose requests bring a whole batch each, so that the handler is called once for each request."""

from __future__ import annotations

import json
from typing import Any

from .base import BaseEnvelope


class SingleEnvelope(BaseEnvelope):
    """TorchServe reads the first request of a batch only, and fails the batch; here each request is handled by itself."""

    def handle(self, data: Any, context: Any) -> Any:
        if not data or len(data) == 1:
            return super().handle(data, context)
        answers = []
        for index, row in enumerate(data):
            with context._only(index):
                answer = super().handle([row], context)
            if not isinstance(answer, list) or len(answer) != 1:
                raise ValueError(f"the handler returned nothing for request {index} of the batch")
            answers += answer
        return answers

    @staticmethod
    def body(data: Any) -> dict[str, Any]:
        """The JSON object of the only request, whatever content type it came with."""
        body = data[0].get("data") or data[0].get("body")
        if isinstance(body, bytes | bytearray | str):
            body = json.loads(body)
        if not isinstance(body, dict):
            raise ValueError(f"expected a JSON object, found {type(body).__name__}")
        return body
