"""A TorchServe request's body, query and headers, as handlers get them. What a type means is decided in the worker."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

import falcon

from ....core.errors import InvalidRequest
from ....core.request import Part
from .multipart import is_form, parse_form, parse_multipart

if TYPE_CHECKING:
    from ..engine.parser import RequestHead

FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
FORMS = frozenset({FORM, _MULTIPART})
MAX_QUERY_FIELDS = 1000
#: Headers that a handler does not get to see: what they ask for is over once the body is there.
_BETWEEN_PEERS = frozenset({"transfer-encoding", "expect"})
_SEPARATORS = re.compile("[&;]")


@functools.lru_cache(256)
def media_type(content_type: str) -> tuple[str, str]:
    """A content type without its parameters, as it was sent and in lower case."""
    mime = content_type.partition(";")[0].strip()
    return mime, mime.lower()


def read_parts(body: bytes | bytearray | memoryview, content_type: str) -> list[Part]:
    """One part per form field, or the whole body under the name `body`, with its content type without parameters (TorchServe)."""
    mime, kind = media_type(content_type)
    if kind == _MULTIPART and (boundary := _boundary(content_type)):
        return parse_multipart(_searchable(body), boundary)
    if kind == FORM:
        return parse_form(body)
    return [Part("body", body, mime)]


def read_parts_strictly(body: bytes | bytearray | memoryview, content_type: str) -> list[Part]:
    """The same for models of a repository, where nothing that was sent is dropped or mistaken in silence.

    A body that is labelled as an urlencoded form and cannot be one is a body without a content type. InvalidRequest for
    multipart bodies without a boundary or an end, and for a field that is given twice.
    """
    _, kind = media_type(content_type)
    if kind == FORM:
        return parse_form(body, once=True) if not len(body) or is_form(body) else [Part("body", body)]
    if kind == _MULTIPART:
        boundary = _boundary(content_type)
        if not boundary:
            raise InvalidRequest(
                "the content type multipart/form-data names no boundary; leave the header to the client's library, which "
                "writes it itself (curl -F, requests' files=)"
            )
        return parse_multipart(_searchable(body), boundary, strict=True)
    return read_parts(body, content_type)


def _boundary(content_type: str) -> str | None:
    _, options = falcon.parse_header(content_type)
    return options.get("boundary")


def _searchable(body: bytes | bytearray | memoryview) -> bytearray | bytes:
    whole = body.obj if isinstance(body, memoryview) else body
    return whole if isinstance(whole, bytearray | bytes) and len(whole) == len(body) else bytes(body)


def query(text: str) -> dict[str, str]:
    """The query's parameters; of repeated ones the first counts (TorchServe)."""
    found: dict[str, str] = {}
    for name, value in _pairs(text):
        found.setdefault(name, value)
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    """Separated by `&` or `;`, up to a `#`; signs of equality before a name count for nothing (Netty)."""
    given = [piece for each in _SEPARATORS.split(text.partition("#")[0]) if (piece := each.lstrip("="))]
    if len(given) > MAX_QUERY_FIELDS:
        raise InvalidRequest(f"the query has more than {MAX_QUERY_FIELDS} parameters")
    parted = (piece.partition("=") for piece in given)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in parted]


def query_parts(text: str) -> list[Part]:
    """The query's parameters as inputs, every one: of repeated ones the last counts, as it does in a body (TorchServe)."""
    return [Part(name, value.encode()) for name, value in _pairs(text)]


def client_headers(head: RequestHead, nbytes: int) -> dict[str, str]:
    """The request's headers in the client's spelling, the last of repeated ones, without `Expect` (TorchServe).

    Where the client sent no length, TorchServe's handlers see one in lower case: 0, or that of a chunked body of `nbytes`.
    """
    headers = dict(head.pairs)
    if head.chunked or "expect" in head.fields:
        headers = {name: value for name, value in headers.items() if name.lower() not in _BETWEEN_PEERS}
    if "content-length" not in head.fields:
        headers["content-length"] = str(nbytes)
    return headers
