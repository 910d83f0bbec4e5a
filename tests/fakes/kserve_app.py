"""An application that speaks KServe v2 only."""

from __future__ import annotations

from typing import Any

import falcon

from jitney.server.http.kserve import add_routes, inferring
from jitney.server.http.kserve.settings import LogSettings
from jitney.server.http.kserve.shm import ClientRegions
from jitney.server.http.middleware.admission import Admission
from jitney.server.http.middleware.recorder import Recorder
from jitney.server.metrics import Metrics
from jitney.server.settings.addresses import parse_address
from jitney.server.settings.settings import Settings
from jitney.server.tracing.settings import TraceSettings

App = falcon.App[falcon.Request, falcon.Response]


def kserve_app(dataplane: Any, max_request_size: int, forward: str = "", *, control: Any = None, **values: Any) -> App:
    """`forward`: the pattern of headers that become parameters; `values`: other settings. A fake is its own control plane."""
    address = parse_address("http://127.0.0.1:0")
    values = {"max_request_size": max_request_size, "http_header_forward_pattern": forward, **values}
    settings = Settings(address, address, address, **values)
    app: App = falcon.App()
    recorder = Recorder(settings, Metrics().torchserve)
    services = inferring(dataplane, settings, recorder, Admission(64, 64), ClientRegions(settings.allow_client_shm))
    add_routes(app, services, dataplane, control or dataplane, settings.server_id, TraceSettings(), LogSettings())
    return app
