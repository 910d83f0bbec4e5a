"""The status page of the management port: `/status.json`, the page that shows it, and what the page asks models."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..torchserve.errors import MethodNotAllowed
from ..torchserve.render import send_json
from ..torchserve.routing import MODEL, VERSION, not_found
from . import trying
from .document import StatusDocument
from .page import NAMES, Page

if TYPE_CHECKING:
    from ..kserve.infer_plan import InferServices
    from ..torchserve.predict_plan import PredictServices
    from ..torchserve.routing import Exchange, Handler, Routes

__all__ = ["FILES", "StatusDocument", "add_status"]

#: The pattern of the files that the page loads.
FILES = rf"/status/(?P<name>{'|'.join(NAMES)})".replace(".", r"\.")


def add_status(
    routes: Routes, document: StatusDocument, predicting: PredictServices, inferring: InferServices, root: Handler
) -> None:
    """Adds the page's routes to the management port; `root` answers `/` for those that are no browsers."""

    def figures(exchange: Exchange) -> None:
        if exchange.req.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("GET", "HEAD")
        send_json(exchange.resp, document.read())

    page = Page()
    routes.add(r"/*", page.root(root))
    routes.add(r"/status", page.html)
    routes.add(FILES, page.file)
    routes.add(r"/status\.json", figures)
    routes.add_plan(rf"/status/try/predictions/{MODEL}(?:/{VERSION})?", partial(trying.predict, predicting), not_found)
    tensors = rf"/status/try/v2/models/{MODEL}(?:/versions/{VERSION})?/infer"
    routes.add_plan(tensors, partial(trying.infer, inferring), not_found)
