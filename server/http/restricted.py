"""Middleware: requests to a restricted group of routes must carry its header (tritonserver's `--http-restricted-api`)."""

from __future__ import annotations

import hmac

import falcon
import orjson

from ..restrictions import Restrictions, group_of
from .access import is_kserve
from .torchserve.errors import Problem
from .torchserve.render import new_request_id, seal, to_json


class Restricted:
    """Refuses with 403 in the dialect of the path."""

    def __init__(self, restrictions: Restrictions) -> None:
        self._restrictions = restrictions

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        header, value = self._restrictions.get(group_of(req.method, req.path) or "", ("", ""))
        if not header or hmac.compare_digest((req.get_header(header) or "").encode(), value.encode()):
            return
        text = f"This API is restricted, expecting header '{header}'"
        resp.status, resp.content_type, resp.complete = falcon.HTTP_403, "application/json", True
        if is_kserve(req.path):
            resp.data = orjson.dumps({"error": text})
            return
        resp.data = to_json(Problem(403, "ForbiddenException", text)._asdict())
        seal(req, resp, new_request_id())
