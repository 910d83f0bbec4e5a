"""TorchServe's routes on Falcon: any method reaches a route, paths are matched whole, and every answer leaves sealed.

Falcon's own routes answer only methods that they know; TorchServe predicts for `BREW` as well. So each route is a Falcon sink
with a pattern. Patterns match the percent-decoded path without trailing slashes. A later route counts more than an earlier one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import falcon

from ...errors import (
    DependencyInstallFailed,
    DownloadFailed,
    InvalidArchive,
    JitneyError,
    LoadFailed,
    ModelFailed,
    NoWorkers,
    SaveFailed,
    UrlRefused,
    WorkerDied,
)
from ..later import Finish, later_of
from ..reasons import REASON, in_one_line
from ..retry import RETRY_AFTER, SECONDS, is_temporary
from .errors import BadEscape, MethodNotAllowed, ResourceNotFound, Target, problem, with_reason
from .render import new_request_id, seal, send_json

log = logging.getLogger(__name__)

#: Model and version as path segments. An empty model name is a name that no model has (`/predictions//x`).
MODEL, VERSION = r"(?P<model>[^/]*)", r"(?P<version>[^/]+)"


#: Errors whose reason TorchServe's text leaves out.
WITH_REASONS = (
    ModelFailed,
    WorkerDied,
    LoadFailed,
    NoWorkers,
    InvalidArchive,
    DependencyInstallFailed,
    DownloadFailed,
    SaveFailed,
    UrlRefused,
)
#: Answers one exchange. Named groups of its pattern are keyword arguments, None where they did not take part.
Handler = Callable[..., None]


class Exchange:
    """One request and its answer. `target` is what error texts name; handlers set it.

    `kserve`: the text of an error stands under `error` too, where clients of KServe look for it. `hides_reasons` is asked when
    something went wrong: whether the body has TorchServe's text alone, which scripts compare.
    """

    def __init__(self, req: falcon.Request, resp: falcon.Response, *, kserve: bool = False) -> None:
        self.req, self.resp, self.kserve = req, resp, kserve
        self.id = new_request_id()
        self.target = Target()
        self.hides_reasons: Callable[[], bool] = lambda: True

    def guard(self, finish: Finish) -> None:
        """Runs what is rendered after the handler has returned, and answers with what that raises."""
        answer(self, lambda _: finish())


class Routes:
    """Adds routes to an application."""

    def __init__(self, app: falcon.App[falcon.Request, falcon.Response]) -> None:
        self.app = app
        self.patterns: list[str] = []

    def add(self, pattern: str, handler: Handler, shortcut: Callable[..., Any] | None = None) -> None:
        """Lets `handler` answer every method on paths that match `pattern` as a whole.

        `shortcut` makes an `express.Shortcut` for POST requests with one head, or None.
        """
        self.patterns.append(pattern)
        self.app.add_sink(_sink(handler, shortcut), re.compile(rf"(?:{pattern})\Z", re.DOTALL))


def _sink(handler: Handler, shortcut: Callable[..., Any] | None) -> Callable[..., None]:
    def sink(req: falcon.Request, resp: falcon.Response, **segments: Any) -> None:
        answer(Exchange(req, resp), lambda exchange: handler(exchange, **segments))

    sink.shortcut = shortcut  # type: ignore[attr-defined]
    return sink


def answer(exchange: Exchange, handle: Callable[[Exchange], None]) -> None:
    """Lets `handle` answer, turns what it raises into an error answer, and seals it."""
    try:
        handle(exchange)
    except Exception as error:  # every accepted request is answered
        if not isinstance(error, JitneyError):
            log.exception("%s %s failed", exchange.req.method, exchange.req.path)
        send_problem(exchange, error)
    later = later_of(exchange.req)
    if later is None or not later.claimed or later.concluding:
        seal(exchange.req, exchange.resp, exchange.id)


def send_problem(exchange: Exchange, error: Exception) -> None:
    """TorchServe's ErrorResponse; what the handler had put into the answer before is dropped."""
    found = problem(error, exchange.target)
    exchange.resp.stream = None
    exchange.req.env.pop("jitney.spelling", None)
    if isinstance(error, MethodNotAllowed):
        exchange.resp.set_header("Allow", ", ".join(error.allowed))
    if reason := _reason(error, found.message):
        exchange.resp.set_header(REASON, reason)
    if found.code == 503 and is_temporary(error):
        exchange.resp.set_header(RETRY_AFTER, SECONDS)
    if not exchange.hides_reasons():
        found = with_reason(found, error)
    send_json(exchange.resp, found._asdict() | ({"error": found.message} if exchange.kserve else {}), found.code)


def _reason(error: Exception, told: str) -> str:
    """What TorchServe's text leaves out, in one line that a header can carry; "" where it says all."""
    if not isinstance(error, WITH_REASONS):
        return ""
    reason = getattr(error, "reason", "") or str(error)
    return "" if " ".join(reason.split()) in told else in_one_line(reason)


def not_found(exchange: Exchange, **segments: Any) -> None:
    raise ResourceNotFound


_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def refuse_bad_escapes(uri: str) -> None:
    """Raises BadEscape for a percent sign that begins no escape, in the words of TorchServe's network library."""
    found = _BAD_ESCAPE.search(uri)
    if found is None:
        return
    at, (path, _, query) = found.start(), uri.partition("?")
    text = path if at < len(path) else query
    at -= 0 if at < len(path) else len(path) + 1
    if at + 3 > len(text):
        raise BadEscape(f"unterminated escape sequence at index {at} of: {text}")
    raise BadEscape(f"invalid hex byte '{text[at + 1 : at + 3]}' at index {at + 1} of '{text}'")
