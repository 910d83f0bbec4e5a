"""Envelope `kserve`: KServe v1, {"instances": […]} in, {"predictions": […]} or {"explanations": […]} out."""

from __future__ import annotations

from typing import Any

from .single import SingleEnvelope


class KServeEnvelope(SingleEnvelope):
    def parse_input(self, data: Any) -> Any:
        instances = self.body(data).get("instances")
        if not isinstance(instances, list):
            raise ValueError('expected a list "instances"')
        return instances

    def format_output(self, data: Any) -> Any:
        return [{"explanations" if self._is_explain() else "predictions": data}]
