"""Plans of the page's "try it": requests as on the inference port, whose answers say where their time went.

A page may ask its own address only, so these stand on the management port.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..kserve.infer_plan import HandlerPlan, InferPlan, InferServices
from ..torchserve.predict_plan import PredictPlan, PredictServices

if TYPE_CHECKING:
    from ..plan import InFlightRequest, Reply, RoutePlan


def _timed(reply: Reply, flight: InFlightRequest) -> Reply:
    """The reply with a Server-Timing header: the parts of `/status.json`, in milliseconds."""
    if flight.call is None:
        return reply
    times = flight.call.times
    worked = times.compute_input + times.compute_infer + times.compute_output
    parts = {
        "decode": times.arrived - int(flight.began * 1e9),
        "queue": times.dispatched - times.arrived,
        "way": times.answered - times.dispatched - worked,
        "compute": worked,
        "encode": time.monotonic_ns() - times.answered,
    }
    text = ", ".join(f"{part};dur={max(0, ns) / 1e6:.3f}" for part, ns in parts.items())
    return reply._replace(own=(*reply.own, ("server-timing", text)))


class TryPredict(PredictPlan):
    """A body as `/predictions` takes it."""

    def render(self, flight: InFlightRequest) -> Reply:
        return _timed(super().render(flight), flight)


class TryInfer(InferPlan):
    """Tensors as KServe v2's `infer` takes them."""

    def render(self, flight: InFlightRequest) -> Reply:
        return _timed(super().render(flight), flight)


def predict(services: PredictServices, model: str, version: str | None = None) -> RoutePlan:
    return TryPredict(services, model, version, {"url_path": "", "explain": "False"})


def infer(services: InferServices, model: str, version: str | None = None) -> RoutePlan:
    """As `InferServices.plan` chooses: handlers read the body themselves."""
    plan = services.plan(model, version)
    return plan if isinstance(plan, HandlerPlan) else TryInfer(services, model, version)
