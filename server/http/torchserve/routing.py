"""TorchServe's routes on Falcon: any method reaches a route, paths are matched whole, and every answer leaves sealed.

Falcon's own routes answer only methods that they know; TorchServe predicts for `BREW` as well. So each route is a Falcon sink
with a pattern. Patterns match the percent-decoded path without trailing slashes. A later route counts more than an earlier one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon

from ....core.errors import JitneyError
from ...process.log_format import about
from ..falcon_plan import run_plan
from .errors import ResourceNotFound, Target, problem, problem_headers
from .render import new_request_id, seal, send_json

if TYPE_CHECKING:
    from ..plan import RoutePlan

log = logging.getLogger(__name__)

#: Model and version as path segments. An empty model name is a name that no model has (`/predictions//x`).
MODEL, VERSION = r"(?P<model>[^/]*)", r"(?P<version>[^/]+)"


#: Answers one exchange. Named groups of its pattern are keyword arguments, None where they did not take part.
Handler = Callable[..., None]


class Exchange:
    """One request and its answer. `target` is what error texts name; handlers set it.

    `kserve`: the text of an error stands under `error` too, where clients of KServe look for it.
    """

    def __init__(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.req, self.resp, self.kserve = req, resp, False
        self.id = new_request_id()
        self.target = Target()


class Routes:
    """Adds routes to an application."""

    def __init__(self, app: falcon.App[falcon.Request, falcon.Response]) -> None:
        self.app = app
        self.patterns: list[str] = []

    def add(self, pattern: str, handler: Handler) -> None:
        """Lets `handler` answer every method on paths that match `pattern` as a whole."""
        self._add(pattern, lambda req, resp, **segments: answer(Exchange(req, resp), lambda e: handler(e, **segments)))

    def add_plan(self, pattern: str, make: Callable[..., RoutePlan], describe: Handler) -> None:
        """Lets plans answer on paths that match `pattern`, and `describe` where the method is OPTIONS.

        `make` gets the named groups of the pattern, as a `Handler` does.
        """

        def sink(req: falcon.Request, resp: falcon.Response, **segments: Any) -> None:
            if req.method == "OPTIONS":
                answer(Exchange(req, resp), lambda exchange: describe(exchange, **segments))
            else:
                run_plan(make(**segments), req, resp)

        def plan(method: str, **segments: Any) -> RoutePlan | None:
            return None if method == "OPTIONS" else make(**segments)

        sink.plan = plan  # type: ignore[attr-defined]
        self._add(pattern, sink)

    def _add(self, pattern: str, sink: Callable[..., None]) -> None:
        self.patterns.append(pattern)
        self.app.add_sink(sink, re.compile(rf"(?:{pattern})\Z", re.DOTALL))


def answer(exchange: Exchange, handle: Callable[[Exchange], None]) -> None:
    """Lets `handle` answer, turns what it raises into an error answer, and seals it."""
    try:
        handle(exchange)
    except Exception as error:  # every accepted request is answered
        if not isinstance(error, JitneyError):
            told = about(exchange.id, exchange.req.get_header("traceparent"))
            log.exception("%s %s failed", exchange.req.method, exchange.req.path, extra=told)
        send_problem(exchange, error)
    seal(exchange.req, exchange.resp, exchange.id)


def send_problem(exchange: Exchange, error: Exception) -> None:
    """TorchServe's ErrorResponse; what the handler had put into the answer before is dropped."""
    found = problem(error, exchange.target)
    exchange.resp.stream = None
    exchange.req.env.pop("jitney.spelling", None)
    for name, value in problem_headers(error, found):
        exchange.resp.set_header(name, value)
    send_json(exchange.resp, found._asdict() | ({"error": found.message} if exchange.kserve else {}), found.code)


def send_no_workflow(exchange: Exchange, workflow: str) -> None:
    """TorchServe's answer for a workflow that is not there; none ever is."""
    problem = {"code": 404, "type": "WorkflowNotFoundException", "message": f"Workflow not found: {workflow}"}
    send_json(exchange.resp, problem, 404)


def not_found(exchange: Exchange, **segments: Any) -> None:
    raise ResourceNotFound
