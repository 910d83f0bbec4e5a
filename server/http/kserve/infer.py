"""`POST /v2/models/M[/versions/V]/infer`: a route whose requests are answered by plans."""

from __future__ import annotations

from functools import partial

import falcon

from ..falcon_plan import run_plan
from ..plan import RoutePlan
from .infer_plan import InferServices
from .resource import Resource, read_body


class Infer(Resource):
    """Makes the plan for a model (`plan`), and is a responder of its own where the server knows nothing of plans."""

    def __init__(self, services: InferServices) -> None:
        self._services = services

    def plan(self, method: str, model: str, version: str | None = None) -> RoutePlan | None:
        """The plan for requests with this method; None where it is refused."""
        return self._services.plan(model, version) if method == "POST" else None

    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        run_plan(self._services.plan(model, version), req, resp, partial(read_body, limit=self._services.limit))
