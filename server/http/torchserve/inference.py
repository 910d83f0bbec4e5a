"""TorchServe's inference routes: ping, predictions, explanations, KServe v1, SageMaker's and the legacy ones.

No route looks at the method, except OPTIONS, which describes. What waits for a model is a plan (`predict_plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..plan import RoutePlan
from . import openapi
from .predict_plan import InvocationPlan, PredictPlan, PredictServices
from .render import send_json, send_status
from .routing import MODEL, VERSION, Exchange, Routes, send_no_workflow

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane
    from ...serving.inference_plane import InferencePlane

_REST = r"(?P<rest>.*)"


def add_predictions(routes: Routes, inference: PredictServices) -> None:
    """Adds the routes that front ends answer themselves: predictions, explanations and KServe v1's."""
    describe = partial(_describe, inference.plane)
    routes.add_plan(rf"/v1/models/{MODEL}:predict", partial(_kserve, inference, "False"), describe)
    routes.add_plan(rf"/v1/models/{MODEL}:explain", partial(_kserve, inference, "True"), describe)
    for name, explain in (("predictions", "False"), ("explanations", "True")):
        make = partial(_plan, inference, explain)
        routes.add_plan(rf"/{name}/{MODEL}(?:/{VERSION}(?:/{_REST})?)?", make, describe)


def add_inference(routes: Routes, inference: PredictServices, dataplane: DataPlane) -> None:
    """Adds all of the inference port's routes."""
    legacy, describe = partial(_legacy, inference), partial(_describe, inference.plane)
    invoked = partial(InvocationPlan, inference, partial(_only_model, dataplane))
    routes.add_plan(rf"/{MODEL}(?:/{VERSION})?/predict", legacy, describe)
    routes.add_plan(rf"/models/{MODEL}/invoke", legacy, describe)
    routes.add_plan(r"/invocations", invoked, partial(_describe_invoked, inference.plane, invoked))
    routes.add_plan(rf"/v2/models/{MODEL}/explain", partial(_kserve, inference, "True"), describe)
    add_predictions(routes, inference)
    routes.add(r"/(?i:wfpredict)/(?P<workflow>[^/]*)(?:/.*)?", send_no_workflow)
    routes.add(r"/ping(?:/.*)?", partial(_ping, dataplane))


def _ping(plane: DataPlane, exchange: Exchange, **_: Any) -> None:
    healthy = plane.healthy()
    send_status(exchange.resp, "Healthy" if healthy else "Unhealthy", 200 if healthy else 500)


def _plan(
    inference: PredictServices, explain: str, model: str, version: str | None = None, rest: str | None = None
) -> RoutePlan:
    return PredictPlan(inference, model, version, {"url_path": rest or "", "explain": explain})


def _kserve(inference: PredictServices, explain: str, model: str) -> RoutePlan:
    """KServe's routes know no path behind the model, so their handlers see no `url_path` (TorchServe).

    For models of a repository the text of an error stands where clients of KServe look for it.
    """
    return PredictPlan(inference, model, None, {"explain": explain}, kserve=not inference.is_archive(model, None))


def _legacy(inference: PredictServices, model: str, version: str | None = None) -> RoutePlan:
    """`/{m}/predict` and SageMaker's `/models/{m}/invoke`: the query's parameters are inputs too, before the body's."""
    return PredictPlan(inference, model, version, {}, queries=True)


def _only_model(dataplane: DataPlane) -> str | None:
    """The one model that the start has loaded, or the only one of a repository; None where it was another number of them."""
    configs = {name: dataplane.config(name, None) for name, _ in dataplane.models()}
    started = [name for name, config in configs.items() if config.loaded_at_startup]
    if not any(config.is_archive for config in configs.values()):
        started = started or list(configs)
    return started[0] if len(started) == 1 else None


def _describe_invoked(plane: InferencePlane, invoked: Callable[[], InvocationPlan], exchange: Exchange) -> None:
    """Describes the model that an invocation would reach, as far as that is known without a body (TorchServe)."""
    _describe(plane, exchange, invoked().named(exchange.req.query_string))


def _describe(plane: InferencePlane, exchange: Exchange, model: str = "", version: str | None = None, **_: Any) -> None:
    plane.config(model, version)
    send_json(exchange.resp, openapi.prediction(model))
