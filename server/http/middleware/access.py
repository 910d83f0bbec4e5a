"""What happens to every request before and after its route, whatever its dialect: CORS, who may pass, counting, access log.

The middleware is the one place that asks for tokens. It runs before routing, so that nothing is answered without passing it, an
unknown path included; what needs no token is listed, everything else does. Only preflights are answered before that: browsers
send them without keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import falcon

from ....core.errors import JitneyError
from .guard import Guards
from .recorder import Recorder

#: Makes a response an error's answer, in the dialect of the request's path.
Refuse = Callable[[falcon.Request, falcon.Response, JitneyError], None]


class Access:
    """Falcon middleware of one listener. `refuse` answers those that may not pass."""

    def __init__(self, guards: Guards, recorder: Recorder, refuse: Refuse) -> None:
        self.guards, self.recorder, self._refuse = guards, recorder, refuse

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Normalises the path, answers preflights, then lets through or refuses."""
        req.context.began = time.monotonic()
        req.path = self.guards.normal_path(req.path)
        if self.recorder.cors.answer_preflight(req, resp):
            return
        try:
            self.guards.guard(req.method, req.path).check(req.get_header, req.env.get("REQUEST_URI", ""))
        except JitneyError as error:
            self._refuse(req, resp, error)
            resp.complete = True

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        """Adds CORS headers, counts the answer and writes its line into the access log, when there is one."""
        self.recorder.cors.add(req, resp)
        for callback in getattr(req.context, "at_end", ()):
            callback()
        if getattr(req.context, "is_counted", False):
            return
        self.recorder.answered(resp.status_code)
        if self.recorder.logs:
            peer = f"{req.env.get('REMOTE_ADDR', '')}:{req.env.get('REMOTE_PORT', '')}"
            uri = req.env.get("REQUEST_URI") or req.relative_uri
            line = f"{req.method} {uri} {req.env.get('SERVER_PROTOCOL', 'HTTP/1.1')}"
            request_id = getattr(req.context, "request_id", "") or resp.get_header("x-request-id") or ""
            began, parent = getattr(req.context, "began", 0.0), req.get_header("traceparent")
            self.recorder.log(peer, line, resp.status_code, began, request_id, parent)
