"""The status page's files: read once at the start, sent with headers that let a browser load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..torchserve.errors import MethodNotAllowed

if TYPE_CHECKING:
    from ..torchserve.routing import Exchange

FILES = Path(__file__).parent / "files"
HTML, SCRIPT, STYLE = "text/html; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"
#: What lies under /status/, and where.
NAMES = {
    "page.js": ("page.js", SCRIPT),
    "try.js": ("try.js", SCRIPT),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "page.css": ("page.css", STYLE),
    "htm-preact.js": ("vendor/htm-preact.js", SCRIPT),
    "uplot.js": ("vendor/uplot.js", SCRIPT),
    "uplot.css": ("vendor/uplot.css", STYLE),
}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "vary": "accept",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Page:
    """The handlers of `/status` and of the files that it loads."""

    def __init__(self) -> None:
        self._html = (FILES / "page.html").read_bytes()
        self._files = {name: ((FILES / path).read_bytes(), kind) for name, (path, kind) in NAMES.items()}

    def html(self, exchange: Exchange) -> None:
        """The page itself."""
        send(exchange, self._html, HTML)

    def file(self, exchange: Exchange, name: str) -> None:
        """One of its files."""
        send(exchange, *self._files[name])

    def root(self, otherwise: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        """Answers `/` for browsers, and leaves the others to what answered before."""

        def answer(exchange: Exchange) -> None:
            shown = exchange.req.method in ("GET", "HEAD") and "text/html" in exchange.req.accept
            (self.html if shown else otherwise)(exchange)

        return answer


def send(exchange: Exchange, data: bytes, kind: str) -> None:
    """Sends a file to GET and HEAD; MethodNotAllowed for others."""
    if exchange.req.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("GET", "HEAD")
    exchange.resp.content_type, exchange.resp.data = kind, data
    for name, value in HEADERS.items():
        exchange.resp.set_header(name, value)
