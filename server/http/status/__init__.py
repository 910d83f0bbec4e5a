"""The status page of the management port, and `/status.json`, which it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..torchserve.errors import MethodNotAllowed
from ..torchserve.render import send_json
from .document import StatusDocument

if TYPE_CHECKING:
    from ..torchserve.routing import Exchange, Routes

__all__ = ["StatusDocument", "add_status"]


def add_status(routes: Routes, document: StatusDocument) -> None:
    """Adds the page's routes to the management port."""

    def figures(exchange: Exchange) -> None:
        if exchange.req.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET", "HEAD")
        send_json(exchange.resp, document.read())

    routes.add(r"/status\.json", lambda exchange, **_: figures(exchange))
