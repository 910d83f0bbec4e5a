"""KServe v1's list of models and readiness on the inference port, in the form of KServe's own model server.

In TorchServe's image for KServe a wrapper in front of TorchServe answers them on the port that predicts; KServe's agent and
readiness probes ask there. Where one port carries management too, TorchServe's own readiness stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....core.errors import Unavailable
from ...workers.worker_state import WorkerState
from .errors import MethodNotAllowed, ResourceNotFound
from .render import send_json
from .routing import MODEL, Exchange, Routes

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane


@dataclass(frozen=True)
class ModelsV1:
    """The handlers of both paths: GET only. Errors have the text under `error` too, where KServe's clients look for it."""

    dataplane: DataPlane

    def add_to(self, routes: Routes) -> None:
        routes.add(r"/v1/models", self.models)
        routes.add(rf"/v1/models/{MODEL}", self.ready)

    def models(self, exchange: Exchange) -> None:
        """The names of all models that serve."""
        _only_get(exchange)
        send_json(exchange.resp, {"models": [name for name, _ in self.dataplane.models()]})

    def ready(self, exchange: Exchange, model: str) -> None:
        """200 where the model takes requests, 503 where it does not, 404 where there is none, or no such verb (TorchServe)."""
        if exchange.req.method != "GET" and ":" in model:
            raise ResourceNotFound
        _only_get(exchange)
        self.dataplane.config(model, None)
        if not self.dataplane.model_ready(model, None) and not self._is_loading(model):
            raise Unavailable(f"Model with name {model} is not ready.")
        send_json(exchange.resp, {"name": model, "ready": True})

    def _is_loading(self, model: str) -> bool:
        """Whether an archive's worker is loading it for the first time: requests wait for it, and TorchServe calls it ready."""
        found = self.dataplane.describe(model, None)[0]
        return found.config.backend == "handler" and any(
            w.state is WorkerState.STARTING and not w.error for w in found.workers
        )


def _only_get(exchange: Exchange) -> None:
    exchange.kserve = True
    if exchange.req.method != "GET":
        raise MethodNotAllowed("GET")
