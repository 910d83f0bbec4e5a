"""What all resources of this dialect share: errors as JSON, refused methods, request bodies, waiting for a call."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import falcon
import falcon.constants

from ....core.call import Call
from ....core.errors import InvalidRequest, JitneyError, ModelNotReady, PayloadTooLarge
from ....core.request import Response
from ...process.log_format import about
from ..reasons import REASON, in_one_line
from ..retry import RETRY_AFTER, SECONDS, is_temporary
from ..wsgi import body_of, on_disconnect
from .documents import dump
from .errors import RouteNotFound, UnsupportedEncoding, describe

log = logging.getLogger(__name__)

Responder = Callable[..., None]

JSON = "application/json"
HEADER_LENGTH = "Inference-Header-Content-Length"
#: All that Falcon knows: what a route leaves to Falcon is refused with an `Allow` that names the refusals too.
METHODS: tuple[str, ...] = tuple(falcon.constants.COMBINED_METHODS)
#: Triton's versions are integers; an archive's are any text, in practice this.
_ARCHIVES_VERSION = re.compile(r"\d+\.[\w.+-]{1,64}", re.ASCII)


def answers_errors(responder: Responder) -> Responder:
    """Turns errors out of a responder into `{"error": text}`; an unforeseen one is logged and is a 500."""

    @functools.wraps(responder)
    def respond(self: Any, req: falcon.Request, resp: falcon.Response, **names: Any) -> None:
        try:
            responder(self, req, resp, **names)
        except Exception as error:  # noqa: BLE001 - every accepted request is answered
            set_failure(req, resp, error)

    return respond


def set_failure(req: falcon.Request, resp: falcon.Response, error: Exception) -> None:
    if isinstance(error, JitneyError):
        set_error(req, resp, error)
        return
    told = about(getattr(req.context, "request_id", ""), req.get_header("traceparent"))
    log.error("%s %s failed", req.method, req.path, exc_info=error, extra=told)
    set_json(resp, {"error": "internal error, see the server's log"}, 500)


def set_error(req: falcon.Request, resp: falcon.Response, error: JitneyError) -> None:
    """Answers with an error; `req.context.request_id` is put before the texts that name it."""
    status, text = describe(error, getattr(req.context, "request_id", ""))
    set_json(resp, {"error": text}, status)
    for name, value in error_headers(error, status):
        resp.set_header(name, value)


def error_headers(error: JitneyError, status: int) -> list[tuple[str, str]]:
    """What goes into the head of an error's answer: the reason, when to come again, which codings are understood."""
    found = []
    if isinstance(error, ModelNotReady) and error.reason:
        found.append((REASON, in_one_line(error.reason)))
    if status == 503 and is_temporary(error):
        found.append((RETRY_AFTER, SECONDS))
    if isinstance(error, UnsupportedEncoding):
        found.append(("Accept-Encoding", "gzip, deflate"))
    return found


def status_line(status: int) -> str:
    return str(falcon.code_to_http_status(status))


def set_json(resp: falcon.Response, document: Any, status: int = 200) -> None:
    resp.status = status
    resp.content_type = JSON
    resp.data = dump(document)


def _responder(method: str) -> str:
    """The name that Falcon gives to the function for a method."""
    return f"on_{method.lower()}"


class Resource:
    """A route; methods that a subclass does not define are answered with 405, and `Allow` names those that it does."""

    def _refuse(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        set_json(resp, {"error": "Method Not Allowed"}, 405)
        resp.set_header("Allow", ", ".join(self.allowed()))

    @classmethod
    def allowed(cls) -> list[str]:
        """The methods that this route answers."""
        return [method for method in METHODS if getattr(cls, _responder(method)) is not Resource._refuse]

    on_get: Responder = _refuse
    on_post: Responder = _refuse
    on_put: Responder = _refuse
    on_patch: Responder = _refuse
    on_delete: Responder = _refuse
    on_head: Responder = _refuse
    on_options: Responder = _refuse
    on_trace: Responder = _refuse
    on_connect: Responder = _refuse


for _method in METHODS:
    if not hasattr(Resource, _responder(_method)):
        setattr(Resource, _responder(_method), Resource._refuse)


def not_found(req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
    """The sink for paths under /v2 that no route has."""
    set_json(resp, {"error": "Not Found"}, 404)


def version_of(text: str | None) -> str | None:
    """A path's version: digits (Triton), or an archive's like "1.0"; anything else is no route.

    Raises InvalidRequest where 64 bits cannot hold it.
    """
    if text is None or _ARCHIVES_VERSION.fullmatch(text):
        return text
    if not (text.isascii() and text.isdigit()):
        raise RouteNotFound("Not Found")
    if len(text) > 20 or int(text) > 2**63 - 1:
        raise InvalidRequest(
            f"failed to get model version from specified version string '{text}' (details: stol), version should be an "
            "integral value > 0"
        )
    return str(int(text))


def read_body(req: falcon.Request, limit: int) -> memoryview:
    """The request's body; raises PayloadTooLarge over `limit` bytes, and InvalidRequest where it ends before its length."""
    length = req.content_length
    body = body_of(req) if length is None or length <= limit else memoryview(b"")
    size = max(length or 0, len(body))
    if size > limit:
        raise PayloadTooLarge(
            f"request size of {size} bytes exceeds the maximum allowed input size of {limit} bytes. Use max_request_size to "
            "increase the limit."
        )
    if len(body) != size:
        raise InvalidRequest(f"the request body ended after {len(body)} of {size} bytes")
    return body


def refuse_coding(req: falcon.Request) -> None:
    """For routes that take no compressed bodies."""
    if (req.get_header("Content-Encoding") or "identity") != "identity":
        raise UnsupportedEncoding("Unsupported content-encoding, only 'identity' is supported.")


def responses(call: Call, req: falcon.Request) -> Iterator[Response]:
    """All answers of a call, the final one last; raises its error. Leaving early, or losing the client, withdraws the call."""
    on_disconnect(req, call.cancel)
    try:
        yield from call.stream()
    finally:
        call.cancel()


def sent_headers(req: falcon.Request) -> list[tuple[str, str]]:
    """Names and values in the client's spelling, where the server tells it."""
    sent: list[tuple[str, str]] | None = req.env.get("jitney.headers")
    return sent if sent is not None else [(name.title(), value) for name, value in req.headers.items()]
