"""What happens to every request before and after its route, whatever its dialect: CORS, who may pass, counting, access log.

The middleware is the one place that asks for tokens. It runs before routing, so that nothing is answered without passing it, an
unknown path included; what needs no token is listed, everything else does. Only preflights are answered before that: browsers
send them without keys.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import falcon

from ..errors import JitneyError
from ..restrictions import group_of
from .cors import Cors
from .later import later_of
from .torchserve.errors import InvalidKey
from .torchserve.routing import Exchange, answer, refuse_bad_escapes

if TYPE_CHECKING:
    from ..metrics import Metrics
    from ..settings import Settings
    from .tokens import Kind, Tokens

access_log = logging.getLogger("jitney.access")

_V1_READY = re.compile(r"/v1/models/[^/:]+")
_DENIED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"


def is_kserve(path: str) -> bool:
    """Whether a path belongs to the KServe v2 dialect, which has its own error bodies and does not touch its paths."""
    return path == "/v2" or path.startswith("/v2/")


def needed(method: str, path: str, ports: Collection[str]) -> Kind | None:
    """Which key a request needs, None where it needs none. `path` has no trailing slash and is percent-decoded.

    Models are changed with the management key only, also over the repository API that shares the inference port.
    """
    if path == "/api-description" or (path == "/" and method == "OPTIONS"):
        return None
    if "metrics" in ports and (path == "/metrics" or path.startswith("/metrics/") or len(ports) == 1):
        return None
    if "inference" not in ports or path.startswith("/v2/repository"):
        return "management"
    if "management" in ports and _is_management(path):
        return "management"
    return "inference"


def is_probe(method: str, path: str) -> bool:
    """Whether a request asks how the server or a model is, as load balancers and Kubernetes do, which send no secrets.

    These are the routes of the restricted group "health", and KServe v1's readiness of a model.
    """
    return group_of(method, path) == "health" or (method in ("GET", "HEAD") and _V1_READY.fullmatch(path) is not None)


def _is_management(path: str) -> bool:
    segments = path.split("/")[1:]
    if segments[0] == "models":
        return not (len(segments) == 3 and segments[2] == "invoke")
    if segments[:2] == ["v1", "models"]:
        return not path.endswith((":predict", ":explain"))
    return segments[0] in ("workflows", "token")


class Access:
    """Falcon middleware of one listener; `ports` are the APIs that it carries."""

    def __init__(self, ports: Collection[str], settings: Settings, metrics: Metrics, tokens: Tokens | None) -> None:
        self.ports, self.metrics, self.tokens = frozenset(ports), metrics, tokens
        self._like_torchserve = settings.ts_open_inference_protocol  # then /v2 takes trailing slashes as all paths do
        self._open_to_probes = bool(settings.token)  # keys of key_file.json guard `/ping` too (TorchServe)
        self._cors = Cors(settings)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Normalises the path, answers preflights, then lets through or refuses."""
        req.context.began = time.monotonic()
        kserve = is_kserve(req.path)
        if not kserve or self._like_torchserve:
            req.path = req.path.rstrip("/") or "/"
        if self._cors.answer_preflight(req, resp):
            return
        try:
            self._authorize(req)
            if not kserve:
                refuse_bad_escapes(req.env.get("REQUEST_URI", ""))
        except JitneyError as error:
            _refuse(req, resp, error, kserve)
            resp.complete = True

    def _authorize(self, req: falcon.Request) -> None:
        if self.tokens is None:
            return
        if self.ports == {"management"} and req.path == "/token":
            return  # asks for the API key itself
        if self._open_to_probes and is_probe(req.method, req.path):
            return
        kind = needed(req.method, req.path, self.ports)
        if kind is not None and not self.tokens.allows(kind, req.get_header("Authorization")):
            raise InvalidKey(_DENIED)

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        """Adds CORS headers, counts the answer and writes its line into the access log, when there is one."""
        later = later_of(req)
        if later is not None and later.claimed and not later.concluding:
            later.seal(lambda: self.process_response(req, resp, resource, succeeded))
            return
        self.allow_origins(req, resp)
        for callback in getattr(req.context, "at_end", ()):
            callback()
        self.passed(req, resp.status_code, getattr(req.context, "began", 0.0))

    def allow_origins(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Adds CORS headers, where they are configured, to those that the answer has."""
        self._cors.add(req, resp)

    def passed(self, req: falcon.Request, status: int, began: float) -> None:
        """Counts an answer and logs it; `began` in monotonic seconds."""
        self.metrics.torchserve.responded(status)
        if self.logs:
            self.log(req, status, began)

    def log(self, req: falcon.Request, status: int, began: float, peer: str = "") -> None:
        """Writes an answer's line into the access log."""
        milliseconds = int((time.monotonic() - began) * 1000)
        peer = peer or f"{req.env.get('REMOTE_ADDR', '')}:{req.env.get('REMOTE_PORT', '')}"
        uri = req.env.get("REQUEST_URI") or req.relative_uri
        access_log.info('/%s "%s %s %s" %s %d', peer, req.method, uri, _protocol(req), status, milliseconds)

    @property
    def logs(self) -> bool:
        """Whether somebody reads the access log."""
        return access_log.isEnabledFor(logging.INFO)


def _protocol(req: falcon.Request) -> str:
    return str(req.env.get("SERVER_PROTOCOL", "HTTP/1.1"))


def _refuse(req: falcon.Request, resp: falcon.Response, error: JitneyError, kserve: bool) -> None:
    """Answers in the dialect of the path."""
    if kserve:
        resp.status, resp.content_type, resp.media = falcon.HTTP_400, "application/json", {"error": str(error)}
        return

    def fail(exchange: Exchange) -> None:
        raise error

    answer(Exchange(req, resp), fail)
