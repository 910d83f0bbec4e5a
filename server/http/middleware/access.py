"""What happens to every request before and after its route, whatever its dialect: CORS, who may pass, counting, access log.

The middleware is the one place that asks for tokens. It runs before routing, so that nothing is answered without passing it, an
unknown path included; what needs no token is listed, everything else does. Only preflights are answered before that: browsers
send them without keys.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import falcon

from ....core.errors import JitneyError, Restricted, Unauthorized
from ...settings.restrictions import group_of
from ..kserve.resource import set_error
from ..torchserve.routing import Exchange, answer, refuse_bad_escapes
from .cors import Cors

if TYPE_CHECKING:
    from ...metrics import Metrics
    from ...settings.settings import Settings
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


class Guard:
    """What requests of one route must carry. `kind`: which key, None for none. `group`: the header, and its value, or None."""

    def __init__(self, tokens: Tokens | None, kind: Kind | None, group: tuple[str, str] | None, escapes: bool) -> None:
        self._tokens, self._kind, self._group, self._escapes = tokens, kind, group, escapes
        self.lets_all_pass = kind is None and group is None  # but for what their escapes are

    def check(self, header: Callable[[str], str | None], target: str) -> None:
        """Raises Unauthorized, BadEscape or Restricted; `header` gives a header by its lower-case name."""
        if self._kind is not None and not (self._tokens and self._tokens.allows(self._kind, header("authorization"))):
            raise Unauthorized(_DENIED)
        if self._escapes and "%" in target:
            refuse_bad_escapes(target)
        if self._group is not None:
            name, value = self._group
            if not hmac.compare_digest((header(name.lower()) or "").encode(), value.encode()):
                raise Restricted(f"This API is restricted, expecting header '{name}'")


class Access:
    """Falcon middleware of one listener; `ports` are the APIs that it carries."""

    def __init__(self, ports: Collection[str], settings: Settings, metrics: Metrics, tokens: Tokens | None) -> None:
        self.ports, self.metrics, self.tokens = frozenset(ports), metrics, tokens
        self._restrictions = settings.http_restricted_api
        self._like_torchserve = settings.ts_open_inference_protocol  # then /v2 takes trailing slashes as all paths do
        self._open_to_probes = bool(settings.token)  # keys of key_file.json guard `/ping` too (TorchServe)
        self.cors = Cors(settings)

    def normal_path(self, path: str) -> str:
        """A path as routes and rules see it: TorchServe's without trailing slashes."""
        return path if is_kserve(path) and not self._like_torchserve else path.rstrip("/") or "/"

    def guard(self, method: str, path: str) -> Guard:
        """What requests for this percent-decoded path, as `normal_path` makes it, must carry."""
        group = self._restrictions.get(group_of(method, path) or "") if self._restrictions else None
        return Guard(self.tokens, self._key(method, path), group, escapes=not is_kserve(path))

    def _key(self, method: str, path: str) -> Kind | None:
        if self.tokens is None or (self._open_to_probes and is_probe(method, path)):
            return None
        if self.ports == {"management"} and path == "/token":
            return None  # asks for the API key itself
        return needed(method, path, self.ports)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Normalises the path, answers preflights, then lets through or refuses."""
        req.context.began = time.monotonic()
        req.path = self.normal_path(req.path)
        if self.cors.answer_preflight(req, resp):
            return
        try:
            self.guard(req.method, req.path).check(req.get_header, req.env.get("REQUEST_URI", ""))
        except JitneyError as error:
            _refuse(req, resp, error)
            resp.complete = True

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        """Adds CORS headers, counts the answer and writes its line into the access log, when there is one."""
        self.cors.add(req, resp)
        for callback in getattr(req.context, "at_end", ()):
            callback()
        if getattr(req.context, "is_counted", False):
            return
        self.metrics.torchserve.responded(resp.status_code)
        if self.logs:
            peer = f"{req.env.get('REMOTE_ADDR', '')}:{req.env.get('REMOTE_PORT', '')}"
            uri = req.env.get("REQUEST_URI") or req.relative_uri
            line = f"{req.method} {uri} {req.env.get('SERVER_PROTOCOL', 'HTTP/1.1')}"
            self.log(peer, line, resp.status_code, getattr(req.context, "began", 0.0))

    def log(self, peer: str, line: str, status: int, began: float) -> None:
        """Writes an answer's line into the access log; `line` is the request's, `began` in monotonic seconds."""
        access_log.info('/%s "%s" %s %d', peer, line, status, int((time.monotonic() - began) * 1000))

    @property
    def logs(self) -> bool:
        """Whether somebody reads the access log."""
        return access_log.isEnabledFor(logging.INFO)


def _refuse(req: falcon.Request, resp: falcon.Response, error: JitneyError) -> None:
    """Answers in the dialect of the path."""
    if is_kserve(req.path):
        set_error(req, resp, error)
        return

    def fail(exchange: Exchange) -> None:
        raise error

    answer(Exchange(req, resp), fail)
