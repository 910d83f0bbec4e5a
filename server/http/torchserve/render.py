"""How TorchServe's answers look: the envelope's headers, pretty JSON, a reason phrase that may be empty."""

from __future__ import annotations

import itertools
import random
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import falcon
import orjson

from ....core.errors import ModelFailed
from ....core.request import Response
from ..plan import Reply, ReplyHead
from .errors import Problem, problem_headers

#: Adds CORS headers to those that a reply has.
WithOrigins = Callable[[list[tuple[str, str]]], list[tuple[str, str]]]

#: On every answer (TorchServe); handlers cannot change them.
ENVELOPE = {
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
_SPELLING = {"pragma": "Pragma", "cache-control": "Cache-Control", "expires": "Expires"}
#: The same as it is written.
ENVELOPE_PAIRS = tuple((_SPELLING[name], value) for name, value in ENVELOPE.items())
_OWN = frozenset(
    {*ENVELOPE, "x-request-id", "content-length", "date"}
    | {"connection", "transfer-encoding", "keep-alive", "te", "trailers", "upgrade"}
    | {"proxy-authenticate", "proxy-authorization"}
)
#: All of a UUID but its last group, and what that begins with.
_PREFIX = str(uuid.uuid4())[:24]
_NUMBERS = itertools.count(random.getrandbits(48))
_LAST_GROUP = (1 << 48) - 1
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PHRASES = {413: "413 Request Entity Too Large", 507: "507 Insufficient Storage"}


def new_request_id() -> str:
    """A UUID (version 4), as TorchServe gives each request; it tells requests apart and is no secret.

    Random for each process; a process then counts, which costs a fifth of making up another one.
    """
    return f"{_PREFIX}{next(_NUMBERS) & _LAST_GROUP:012x}"


def to_json(document: Any) -> bytes:
    """Two blanks of indentation and a final newline, as TorchServe's own JSON is written."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def status_line(status: int) -> str:
    return _PHRASES.get(status) or falcon.code_to_http_status(status)


def send_json(resp: falcon.Response, document: Any, status: int = 200) -> None:
    resp.status = status_line(status)
    resp.content_type = "application/json"
    resp.data = to_json(document)


def send_status(resp: falcon.Response, text: str, status: int = 200) -> None:
    """TorchServe's StatusResponse."""
    send_json(resp, {"status": text}, status)


def seal(req: falcon.Request, resp: falcon.Response, request_id: str) -> None:
    """Puts the envelope around an answer whose status is known, and says whether the connection goes on."""
    for name, value in ENVELOPE.items():
        resp.set_header(name, value)
    resp.set_header("x-request-id", request_id)
    req.env.setdefault("jitney.spelling", {}).update(_SPELLING)
    req.env["jitney.connection"] = "keep-alive" if resp.status_code < 400 else "close"


def prediction_head(response: Response) -> tuple[str, list[tuple[str, str]]]:
    """Status line and headers of a model's answer: its status, phrase and headers; no content type unless the model set one."""
    if not 200 <= response.status <= 599:
        raise ModelFailed(f"the handler set status {response.status}, expected 200 to 599", "BAD_OUTPUT")
    if "\r" in response.reason or "\n" in response.reason:
        raise ModelFailed("the handler set a reason phrase with a line break", "BAD_OUTPUT")
    phrase = response.reason.encode("latin-1", "replace").decode("latin-1")
    return f"{response.status} {phrase}", _headers(response.headers)


def _headers(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """A handler's headers, in its spelling, except those that belong to the envelope and to the connection.

    Of names that differ in case only the last counts.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in headers.items():
        if name.lower() in _OWN:
            continue
        value = value.encode("latin-1", "replace").decode("latin-1")  # as Netty writes what no header can hold
        if not _TOKEN.fullmatch(name) or not _is_sendable(value):
            raise ModelFailed(f"the handler set a header that cannot be sent: {name!r}: {value!r}", "BAD_OUTPUT")
        found[name.lower()] = name, value
    return list(found.values())


def problem_reply(found: Problem, error: Exception, with_origins: WithOrigins, *, kserve: bool = False) -> Reply:
    """TorchServe's ErrorResponse. `kserve`: its text stands under `error` too, where clients of KServe look for it."""
    document = found._asdict() | ({"error": found.message} if kserve else {})
    pairs = [("content-type", "application/json"), *problem_headers(error, found), *ENVELOPE_PAIRS]
    head = ReplyHead(status_line(found.code), with_origins(pairs), "close" if found.code >= 400 else "keep-alive")
    return Reply(head, (), to_json(document))


def _is_sendable(value: str) -> bool:
    return not any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in value)
