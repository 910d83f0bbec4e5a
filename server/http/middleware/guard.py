"""What requests must carry: which key, which header of a restricted group, and whether their escapes must be right."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ....core.errors import Restricted, Unauthorized
from ...settings.restrictions import group_of
from ..dialect import is_kserve
from ..rules import refuse_bad_escapes

if TYPE_CHECKING:
    from ...settings.settings import Settings
    from .tokens import Keys, Kind

_V1_READY = re.compile(r"/v1/models/[^/:]+")
#: What the API is, and the page that shows it.
_DESCRIBED = re.compile(r"/openapi\.json|/docs(?:/[a-z-]+\.(?:js|css))?")
#: The status page and its files; what the page asks models.
_PAGE, _TRY = re.compile(r"/status(?:/[a-z-]+\.(?:js|css|svg))?"), ("/status/try/predictions/", "/status/try/v2/")
#: Paths whose queries TorchServe reads whatever the method is; it leaves those of most others alone, whatever is in them.
_READS_QUERY = re.compile(
    r"/invocations|/token|/workflows|/metrics(?:/.*)?|/models/[^/]*/invoke|/(?!(?:predictions|explanations)/)[^/]+(?:/[^/]+)?/predict"
)
#: Those whose queries it reads with one method.
_READS_QUERY_OF = {
    "GET": re.compile(r"/models(?:/[^/]*){0,2}|/models/[^/]*/[^/]+/set-default"),
    "POST": re.compile("/models"),
    "PUT": re.compile(r"/models(?:/[^/]*){1,2}"),
}
DENIED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"


def needed(method: str, path: str, ports: Collection[str]) -> Kind | None:
    """Which key a request needs, None where it needs none. `path` has no trailing slash and is percent-decoded.

    Models are changed with the management key only, also over the repository API that shares the inference port.
    """
    if path == "/api-description" or (path == "/" and method == "OPTIONS"):
        return None
    if _DESCRIBED.fullmatch(path) and {"inference", "management"} & set(ports):
        return None
    if "management" in ports and _PAGE.fullmatch(path):
        return None  # which holds nothing: it asks for the key itself
    if "metrics" in ports and (path == "/metrics" or path.startswith("/metrics/") or len(ports) == 1):
        return None
    if "inference" not in ports or path.startswith("/v2/repository"):
        return "management"
    if "management" in ports and _is_management(path):
        return "management"
    return "inference"


def reads_query(method: str, path: str) -> bool:
    """Whether TorchServe reads the query of a request for this path, so that its escapes must be right."""
    own = _READS_QUERY_OF.get(method)
    return _READS_QUERY.fullmatch(path) is not None or (own is not None and own.fullmatch(path) is not None)


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
    return segments[0] in ("workflows", "token", "status.json") or path.startswith(_TRY)


class Guard:
    """What requests of one route must carry.

    kind     which key, None for none
    group    the header, and its value, or None
    escapes  whether escapes have to be right; `query`: also in the query
    """

    def __init__(
        self, keys: Keys | None, kind: Kind | None, group: tuple[str, str] | None, escapes: bool, query: bool
    ) -> None:
        self._keys, self._kind, self._group, self._escapes, self._query = keys, kind, group, escapes, query
        self.lets_all_pass = kind is None and group is None  # but for what their escapes are

    def check(self, header: Callable[[str], str | None], target: str) -> None:
        """Raises Unauthorized, BadEscape or Restricted; `header` gives a header by its lower-case name."""
        if self._kind is not None and not (self._keys and self._keys.allows(self._kind, header("authorization"))):
            raise Unauthorized(DENIED)
        if self._escapes and "%" in target:
            refuse_bad_escapes(target, query=self._query)
        if self._group is not None:
            name, value = self._group
            if not hmac.compare_digest((header(name.lower()) or "").encode(), value.encode()):
                raise Restricted(f"This API is restricted, expecting header '{name}'")


class Guards:
    """The guards of one listener's routes; `ports` are the APIs that it carries, `keys` None where no request needs one."""

    def __init__(self, ports: Collection[str], settings: Settings, keys: Keys | None) -> None:
        self._ports, self._keys = frozenset(ports), keys
        self._restrictions = settings.http_restricted_api
        #: Where /v2 takes trailing slashes as all paths do.
        self._like_torchserve = settings.ts_open_inference_protocol or settings.archives_only
        self._open_to_probes = bool(settings.token)  # keys of key_file.json guard `/ping` too (TorchServe)

    def normal_path(self, path: str) -> str:
        """A path as routes and rules see it: TorchServe's without trailing slashes."""
        return path if is_kserve(path) and not self._like_torchserve else path.rstrip("/") or "/"

    def guard(self, method: str, path: str) -> Guard:
        """What requests for this percent-decoded path, as `normal_path` makes it, must carry."""
        group = self._restrictions.get(group_of(method, path) or "") if self._restrictions else None
        reads = reads_query(method, path)
        return Guard(self._keys, self._kind(method, path), group, escapes=not is_kserve(path), query=reads)

    def _kind(self, method: str, path: str) -> Kind | None:
        if self._keys is None or (self._open_to_probes and is_probe(method, path)):
            return None
        if self._ports == {"management"} and path == "/token":
            return None  # asks for the API key itself
        return needed(method, path, self._ports)
