"""A TorchServe request's body, query and headers, as handlers get them. What a type means is decided in the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import falcon

from ....backends.base import Part
from ...errors import InvalidRequest
from .multipart import parse_form, parse_multipart

if TYPE_CHECKING:
    from ..parser import RequestHead

FORM = "application/x-www-form-urlencoded"
MAX_QUERY_FIELDS = 1000


def read_parts(body: bytes | bytearray | memoryview, content_type: str) -> list[Part]:
    """One part per form field, or the whole body under the name `body`, with its content type without parameters."""
    mime = content_type.partition(";")[0].strip()
    if mime.lower() == "multipart/form-data":
        _, options = falcon.parse_header(content_type)
        if boundary := options.get("boundary"):
            return parse_multipart(_searchable(body), boundary)
    if mime.lower() == FORM:
        return parse_form(body)
    return [Part("body", body, mime)]


def _searchable(body: bytes | bytearray | memoryview) -> bytearray | bytes:
    whole = body.obj if isinstance(body, memoryview) else body
    return whole if isinstance(whole, bytearray | bytes) and len(whole) == len(body) else bytes(body)


def query(text: str) -> dict[str, str]:
    """The query's parameters; of repeated ones the first counts (TorchServe)."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise InvalidRequest(f"the query has more than {MAX_QUERY_FIELDS} parameters") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def query_parts(text: str) -> list[Part]:
    return [Part(name, value.encode()) for name, value in query(text).items()]


def client_headers(head: RequestHead, nbytes: int) -> dict[str, str]:
    """The request's headers in the client's spelling, the last of repeated ones (TorchServe).

    Where the client sent no length, TorchServe's handlers see one in lower case: 0, or that of a chunked body of `nbytes`.
    """
    headers = dict(head.pairs)
    if head.chunked:
        headers = {name: value for name, value in headers.items() if name.lower() != "transfer-encoding"}
    if "content-length" not in head.fields:
        headers["content-length"] = str(nbytes)
    return headers
