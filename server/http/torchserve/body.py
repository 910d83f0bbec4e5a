"""A TorchServe request's body, query and headers, as handlers get them. What a type means is decided in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import falcon

from ....backends.base import Part
from ...errors import InvalidRequest
from ..wsgi import body_of
from .multipart import is_form, parse_form, parse_multipart

FORM = "application/x-www-form-urlencoded"
MAX_QUERY_FIELDS = 1000


def read_parts(req: falcon.Request, body: memoryview | None = None, *, believes: bool = True) -> list[Part]:
    """One part per form field, or the whole body under the name `body`, with its content type without parameters.

    `body`: what has been read before. `believes` false: a body that is labelled as an urlencoded form and cannot be one is
    a body without a content type.
    """
    body = body_of(req) if body is None else body
    content_type = req.content_type or ""
    mime = content_type.partition(";")[0].strip()
    if mime.lower() == "multipart/form-data":
        _, options = falcon.parse_header(content_type)
        if boundary := options.get("boundary"):
            return parse_multipart(_searchable(body), boundary)
    if mime.lower() == FORM:
        return parse_form(body) if believes or not len(body) or is_form(body) else [Part("body", body)]
    return [Part("body", body, mime)]


def is_urlencoded(req: falcon.Request) -> bool:
    return (req.content_type or "").partition(";")[0].strip().lower() == FORM


def _searchable(body: memoryview) -> bytearray | bytes:
    whole = body.obj
    return whole if isinstance(whole, bytearray | bytes) and len(whole) == len(body) else bytes(body)


def query(req: falcon.Request) -> dict[str, str]:
    """The query's parameters; of repeated ones the first counts (TorchServe)."""
    found: dict[str, str] = {}
    for name, value in _pairs(req):
        found.setdefault(name, value)
    return found


def _pairs(req: falcon.Request) -> list[tuple[str, str]]:
    try:
        return parse_qsl(req.query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise InvalidRequest(f"the query has more than {MAX_QUERY_FIELDS} parameters") from None


def query_parts(req: falcon.Request) -> list[Part]:
    """The query's parameters as inputs, every one: of repeated ones the last counts, as it does in a body (TorchServe)."""
    return [Part(name, value.encode()) for name, value in _pairs(req)]


def client_headers(req: falcon.Request) -> dict[str, str]:
    """The request's headers in the client's spelling, the last of repeated ones (TorchServe).

    Where the client sent no length, TorchServe's handlers see one in lower case: 0, or that of a chunked body.
    """
    raw: list[tuple[str, str]] | None = req.env.get("jitney.headers")
    headers = dict(raw) if raw is not None else {name.title(): value for name, value in req.headers.items()}
    names = {name.lower() for name in headers}
    if "transfer-encoding" in names:
        headers = {name: value for name, value in headers.items() if name.lower() != "transfer-encoding"}
    if "content-length" not in names:
        headers["content-length"] = str(req.content_length or 0)
    return headers


def with_route(headers: dict[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Adds what the route says (`url_path`, `explain`); it counts more than the client's headers of these names."""
    return {**headers, **extra}
