"""An application that speaks KServe v2 only."""

from __future__ import annotations

from typing import Any

import falcon

from jitney.server.http.kserve import add_routes
from jitney.server.http.middleware.access import Access
from jitney.server.http.middleware.admission import Admission
from jitney.server.metrics import Metrics
from jitney.server.settings.addresses import parse_address
from jitney.server.settings.settings import Settings

App = falcon.App[falcon.Request, falcon.Response]


def kserve_app(dataplane: Any, max_request_size: int, forward: str = "", **values: Any) -> App:
    """`forward`: the pattern of headers that become parameters; `values`: other settings."""
    address = parse_address("http://127.0.0.1:0")
    settings = Settings(address, address, address, max_request_size=max_request_size, **values)
    app: App = falcon.App()
    access = Access(("inference",), settings, Metrics(), None)
    add_routes(app, dataplane, settings, "inference", forward=forward, access=access, admission=Admission(64, 64))
    return app
