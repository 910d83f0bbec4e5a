"""`/metrics`: any method (TorchServe) or GET only (Triton); `name[]` picks samples by their exact names (TorchServe).

OpenMetrics for those that ask for it, as Prometheus does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import falcon

from ...core.errors import InvalidRequest
from ..metrics import CONTENT_TYPE, OPENMETRICS
from .torchserve.routing import Exchange, Routes

if TYPE_CHECKING:
    from ..metrics import Metrics

MAX_NAMES = 1000


def add_metrics(routes: Routes, metrics: Metrics, *, only_get: bool = False) -> None:
    """Adds the metrics port's route."""

    def scrape(exchange: Exchange) -> None:
        if only_get and exchange.req.method != "GET":
            exchange.resp.set_header("allow", "GET")
            exchange.resp.status, exchange.resp.content_type = falcon.HTTP_405, "application/json"
            exchange.resp.data = b'{"error":"Method Not Allowed"}'
            return
        try:
            pairs = parse_qsl(exchange.req.query_string, keep_blank_values=True, max_num_fields=MAX_NAMES)
        except ValueError:
            raise InvalidRequest(f"the query has more than {MAX_NAMES} parameters") from None
        openmetrics = "application/openmetrics-text" in exchange.req.accept
        exchange.resp.content_type = OPENMETRICS if openmetrics else CONTENT_TYPE
        names = [value for name, value in pairs if name == "name[]"]
        exchange.resp.data = metrics.scrape(names, openmetrics=openmetrics)

    routes.add(r"/metrics(?:/.*)?", lambda exchange, **_: scrape(exchange))
