"""What the HTTP API is: `/openapi.json`, the page that shows it, and what a browser sees at `/` of the inference port."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..status.page import send
from ..torchserve.errors import MethodNotAllowed
from ..torchserve.render import send_json
from .document import document
from .page import DOCS, HTML, DocsPage, landing

if TYPE_CHECKING:
    from ...settings.settings import Settings
    from ..torchserve.routing import Exchange, Handler, Routes

__all__ = ["add_openapi"]


def add_openapi(routes: Routes, ports: Collection[str], settings: Settings, root: Handler) -> None:
    """Adds the document and its page to a listener that carries these ports; `root` answers `/` for other clients."""

    def described(exchange: Exchange) -> None:
        if exchange.req.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET", "HEAD")
        send_json(exchange.resp, document(frozenset(ports), settings))

    def first(exchange: Exchange) -> None:
        shown = exchange.req.method in ("GET", "HEAD") and "text/html" in exchange.req.accept
        if shown:
            send(exchange, landing(settings, exchange.req.host), HTML)
        else:
            root(exchange)

    page = DocsPage()
    routes.add(r"/openapi\.json", described)
    routes.add(r"/docs", page.html)
    routes.add(DOCS, page.file)
    if "management" not in ports:  # where the status page is
        routes.add(r"/*", first)
