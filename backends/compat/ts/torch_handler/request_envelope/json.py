"""Envelope `json`: {"instances": […]} in, {"predictions": […]} out; the instances of a batch's requests form one batch."""

from __future__ import annotations

import base64
import json
from typing import Any

from .base import BaseEnvelope


class JSONEnvelope(BaseEnvelope):
    """`{"b64": …}`, as an instance or as a value in one, arrives as bytes."""

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Any) -> Any:
        requests = [_instances(row.get("data") or row.get("body")) for row in data]
        self._lengths = [len(instances) for instances in requests]
        return [_decoded(instance) for instances in requests for instance in instances]

    def format_output(self, data: Any) -> Any:
        if len(data) != sum(self._lengths):
            raise ValueError(f"the handler returned {len(data)} results for {sum(self._lengths)} instances")
        results = iter(data)
        return [{"predictions": [next(results) for _ in range(length)]} for length in self._lengths]


def _instances(body: Any) -> list[Any]:
    if not isinstance(body, dict):
        body = json.loads(body)
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise ValueError('expected a JSON object with a list "instances"')
    return instances


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if list(value) == ["b64"]:
        return base64.b64decode(value["b64"])
    return {key: _decoded(inner) for key, inner in value.items()}
