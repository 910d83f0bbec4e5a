"""Which pages of other sites may read answers: the Fetch standard's CORS protocol, by TorchServe's settings `cors_*`.

TorchServe puts the three settings on every answer and knows no preflight. Here a preflight, which browsers send without keys
and which gives nothing away but the settings, is answered on every path before anything else looks at the request. Without
`cors_allowed_origin` there is no CORS, and OPTIONS is what the path's dialect makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import falcon

if TYPE_CHECKING:
    from ...settings.settings import Settings

_ORIGIN, _METHODS, _HEADERS = "access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"
#: What a preflight allows where the settings name origins and nothing else: what asking a model takes.
DEFAULTS = {_METHODS: "GET, HEAD, POST, OPTIONS", _HEADERS: "authorization, content-type, inference-header-content-length"}
#: Seconds for which a browser need not ask again.
MAX_AGE = 600


class Cors:
    """The CORS headers of one listener's answers."""

    def __init__(self, settings: Settings) -> None:
        self._origins = tuple(origin.strip() for origin in settings.cors_allowed_origin.split(",") if origin.strip())
        given = {_METHODS: settings.cors_allowed_methods, _HEADERS: settings.cors_allowed_headers}
        self._given = {name: value for name, value in given.items() if value}
        self.varies = len(self._origins) > 1  # whether answers differ by where the page is from

    def headers(self, origin: str | None) -> Mapping[str, str]:
        """The headers of an answer to a request from a page of `origin`.

        One origin is sent as it is set (TorchServe). Of several the page's own is named, for the standard knows no lists.
        """
        if not self._origins:
            return self._given
        if len(self._origins) == 1:
            return {_ORIGIN: self._origins[0], **self._given}
        allowed = "*" if "*" in self._origins else origin
        named = {_ORIGIN: allowed} if allowed in self._origins else {}
        return {**named, **self._given, "vary": "Origin"}

    def merged(self, pairs: list[tuple[str, str]], origin: str | None) -> list[tuple[str, str]]:
        """`headers`, added to those that a reply has already, such as a handler's own."""
        if not (self._origins or self._given):
            return pairs
        there = {name.lower() for name, _ in pairs}
        return [*pairs, *((name, value) for name, value in self.headers(origin).items() if name not in there)]

    def variant(self, origin: str | None) -> str:
        """What tells heads of replies apart that differ in these headers only: the origin, where an answer names it."""
        return origin if self.varies and origin in self._origins else ""

    def add(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Adds them to what the answer has already, such as a handler's own."""
        for name, value in self.headers(req.get_header("Origin")).items():
            if resp.get_header(name) is None:
                resp.set_header(name, value)

    def answer_preflight(self, req: falcon.Request, resp: falcon.Response) -> bool:
        """Answers a browser's question whether a page may send a request; false for any other request."""
        asks = req.method == "OPTIONS" and req.get_header("Origin") and req.get_header("Access-Control-Request-Method")
        if not (self._origins and asks):
            return False
        resp.status, resp.complete = falcon.HTTP_204, True
        for name, value in (DEFAULTS | self._given | {"access-control-max-age": str(MAX_AGE)}).items():
            resp.set_header(name, value)
        return True
