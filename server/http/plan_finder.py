"""`PlanFinder`: lets the application's own routes make plans, so that there is one table of routes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon

if TYPE_CHECKING:
    from .engine.parser import RequestLine
    from .middleware.guard import Guards
    from .plan import RoutePlan


class PlanFinder:
    """`plan.MakePlan`. A responder or resource of Falcon's with a method `plan(method, **names)` may make one.

    `app` must look at no request but by `guards`. `serves`: the percent-decoded paths that plans are wanted for.
    """

    def __init__(
        self, app: falcon.App[falcon.Request, falcon.Response], guards: Guards, serves: Callable[[str], bool]
    ) -> None:
        self._app, self._guards, self._serves = app, guards, serves

    def __call__(self, line: RequestLine) -> RoutePlan | None:
        req = falcon.Request(_environ(line), options=self._app.req_options)
        if not self._serves(line.path):
            return None
        req.path = self._guards.normal_path(req.path)
        responder, names, resource, *_ = self._app._get_responder(req)
        make: Callable[..., RoutePlan | None] | None = getattr(responder if resource is None else resource, "plan", None)
        plan = make(line.command, **names) if make is not None else None
        if plan is not None:
            plan.guard = self._guards.guard(line.command, req.path)
        return plan


def _environ(line: RequestLine) -> dict[str, Any]:
    """What Falcon looks at to find a route."""
    return {
        "REQUEST_METHOD": line.command,
        "PATH_INFO": line.path,
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
