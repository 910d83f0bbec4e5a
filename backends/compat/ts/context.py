"""`Context`: what a handler learns of its model and its requests, and where it sets status and headers of its answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

#: Sends one intermediate answer for each request of the batch: (answers, message, code).
Send = Callable[[Sequence[Any], str, int], None]


class RequestProcessor:
    """One request: its headers, and the status and headers of its answer."""

    _status_code = 200
    _reason_phrase: str | None = None

    def __init__(self, request_header: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """The headers, or what makes them when they are first asked for: most handlers never do."""
        self._source = request_header
        self._response_header: dict[str, str] = {}

    @cached_property
    def _request_header(self) -> dict[str, Any]:
        return dict(self._source() if callable(self._source) else self._source)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the headers themselves, not what makes them."""
        return {"_source": self._request_header, **{name: value for name, value in vars(self).items() if name != "_source"}}

    def get_request_property(self, key: str) -> Any:
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        return self._response_header.get(key)


class Context:
    """Lives as long as the worker; handlers may hang attributes of their own on it. Requests change with every batch."""

    metrics: Any = None

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] | None = None
        self._request_processor: list[RequestProcessor] = [RequestProcessor({})]
        self.metrics = metrics
        self.model_yaml_config = {} if model_yaml_config is None else model_yaml_config
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None  # TorchServe's socket to its front end; jitney streams through `_send`
        self.header_key_sequence_id = os.environ.get("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.environ.get("TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start")
        self.header_key_sequence_end = os.environ.get("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")
        self._send: Send | None = None

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    @property
    def request_processor(self) -> list[RequestProcessor]:
        """One for each request of the batch."""
        return self._request_processor

    @request_processor.setter
    def request_processor(self, processors: list[RequestProcessor]) -> None:
        self._request_processor = processors

    # -- requests --------------------------------------------------------------------------------------------------------

    def get_request_id(self, idx: int = 0) -> str | None:
        return (self.request_ids or {}).get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> str | None:
        found: str | None = self.get_request_header(idx, self.header_key_sequence_id)
        return found

    @contextmanager
    def _only(self, idx: int) -> Iterator[None]:
        """While it lasts, request `idx` is the whole batch."""
        processors, ids = self.request_processor, self.request_ids
        self.request_processor = [processors[idx]]
        self.request_ids = {0: (ids or {}).get(idx, "")}
        try:
            yield
        finally:
            self.request_processor, self.request_ids = processors, ids

    # -- answers ---------------------------------------------------------------------------------------------------------

    def set_response_content_type(self, idx: int, value: str | None) -> None:
        if value is not None:
            self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self._request_processor[idx].get_response_header("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self._request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str | None = "", idx: int = 0) -> None:
        self._request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str | None = "") -> None:
        for processor in self._request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self._request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()
