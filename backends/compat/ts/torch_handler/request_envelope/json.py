"""Envelope `json`: {"instances": […]} in, {"predictions": […]} out; the instances of a batch's requests form one batch.

Answers are text on one line, as TorchServe's `request_envelope/json.py` writes them; those of the other envelopes are objects,
which the server writes over several lines.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from .base import BaseEnvelope


class JSONEnvelope(BaseEnvelope):
    """`{"b64": …}`, as an instance or as a value of one, arrives as bytes; deeper ones stay as they are."""

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Any) -> Any:
        requests = [_instances(row.get("data") or row.get("body") or row) for row in data]
        self._lengths = [len(instances) for instances in requests]
        return [_instance(value) for instances in requests for value in instances]

    def format_output(self, data: Any) -> Any:
        """One request gets what there is, as in TorchServe; of several, none may get another's results."""
        if len(self._lengths) > 1 and len(data) != sum(self._lengths):
            raise ValueError(f"the handler returned {len(data)} results for {sum(self._lengths)} instances")
        answers, start = [], 0
        for length in self._lengths:
            answers.append(json.dumps({"predictions": data[start : start + length]}))
            start += length
        return answers


def _instances(body: Any) -> list[Any]:
    if not isinstance(body, dict):
        body = json.loads(body)
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise ValueError('expected a JSON object with a list "instances"')
    return instances


def _instance(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return _decoded(value) if list(value) == ["b64"] else {key: _decoded(inner) for key, inner in value.items()}


def _decoded(value: Any) -> Any:
    return base64.b64decode(value["b64"]) if isinstance(value, dict) and list(value) == ["b64"] else value
