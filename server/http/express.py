"""The short way for inference: the same routes, without the parts of the application that find the same thing every time.

Clients send the same head again and again. What follows from the head alone (the route, the path as the dialect sees it, that
nobody is to be refused) is found once, by the application's own middleware and router, and kept with the parsed head. From then
on a request with that head goes straight to its route, with a request and a response object that have what these routes use of
Falcon's. Where it matters who asks (tokens, restricted groups), and for everything but POST to the routes below, there is no
short way.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon

if TYPE_CHECKING:
    from .access import Access
    from .parser import Head

#: Serves a request whose answer comes later, or renders it at once.
Route = Callable[["LightRequest", "LightResponse"], None]

_PATHS = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer|/predictions/[^/]+(?:/[^/]+)?/?")


class Express:
    """Finds the routes of heads. `app` must look at no request but by `access`, and let `access` pass everybody."""

    def __init__(self, app: falcon.App[falcon.Request, falcon.Response], access: Access) -> None:
        self._app, self.access = app, access

    def route(self, head: Head) -> Route | None:
        """Where requests with this head go, None where they have to take the usual way."""
        if head.command != "POST" or head.environ is None or not _PATHS.fullmatch(head.path):
            return None
        environ = {**head.environ, "wsgi.input": io.BytesIO()}
        req, resp = falcon.Request(environ, options=self._app.req_options), falcon.Response()
        self.access.process_request(req, resp)
        if resp.complete:
            return None
        respond: Callable[..., None]
        respond, names, *_ = self._app._get_responder(req)  # type: ignore[assignment]
        seal: Callable[..., None] = self.access.process_response
        path = req.path

        def serve(req: LightRequest, resp: LightResponse) -> None:
            req.path = path
            respond(req, resp, **names)
            seal(req, resp, None, True)

        return serve


class LightRequest:
    """What the inference routes use of `falcon.Request`."""

    __slots__ = ("content_length", "content_type", "context", "env", "method", "path", "query_string")

    def __init__(self, env: dict[str, Any], length: int) -> None:
        self.env = env
        self.method: str = env["REQUEST_METHOD"]
        self.path: str = env["PATH_INFO"]
        self.content_type: str | None = env.get("CONTENT_TYPE")
        self.content_length: int | None = length if "CONTENT_LENGTH" in env else None
        self.query_string: str = env["QUERY_STRING"]
        self.context = _Context()

    @property
    def relative_uri(self) -> str:
        return self.path + (f"?{self.query_string}" if self.query_string else "")

    def get_header(self, name: str, default: str | None = None) -> str | None:
        key = name.upper().replace("-", "_")
        value = self.env.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
        return value or default


class _Context:
    """What the dialects remember of a request."""

    def __init__(self) -> None:
        self.began = time.monotonic()


class LightResponse:
    """What the inference routes use of `falcon.Response`."""

    __slots__ = ("_cookies", "_headers", "complete", "data", "status", "stream")

    def __init__(self) -> None:
        self.status: str | int = "200 OK"
        self.data: bytes | None = None
        self.stream: Any = None
        self.complete = False
        self._headers: dict[str, str] = {}
        self._cookies: list[tuple[str, str]] = []

    @property
    def status_code(self) -> int:
        return int(falcon.http_status_to_code(self.status))

    @property
    def content_type(self) -> str | None:
        return self._headers.get("content-type")

    @content_type.setter
    def content_type(self, value: str) -> None:
        self._headers["content-type"] = value

    def set_header(self, name: str, value: str) -> None:
        self._headers[name.lower()] = value

    def append_header(self, name: str, value: str) -> None:
        """For Set-Cookie, the one header that is repeated."""
        self._cookies.append((name, value))

    def get_header(self, name: str, default: str | None = None) -> str | None:
        return self._headers.get(name.lower(), default)

    def delete_header(self, name: str) -> None:
        self._headers.pop(name.lower(), None)

    def _wsgi_headers(self, _: str | None = None) -> list[tuple[str, str]]:
        return [*self._headers.items(), *self._cookies]
