"""TorchServe's REST dialect: its routes, texts and statuses, byte for byte where clients can see them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import falcon
from waitress.utilities import Error

from . import openapi
from .errors import MethodNotAllowed, Problem
from .management import Management
from .render import ENVELOPE, new_request_id, send_json, status_line, to_json
from .routing import Exchange, Handler, Routes, not_found
from .v1 import ModelsV1

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane
    from ...serving.dataplane import DataPlane
    from ...settings.settings import Settings
    from ..middleware.tokens import Tokens

log = logging.getLogger(__name__)

Port = Literal["inference", "management", "metrics"]

__all__ = ["add_common", "add_kserve_v1", "add_management", "not_found", "refuse"]


def add_kserve_v1(routes: Routes, dataplane: DataPlane) -> None:
    """Adds KServe v1's list and readiness of models to the inference port. To be called before `add_management`."""
    ModelsV1(dataplane).add_to(routes)


def add_management(
    routes: Routes, dataplane: DataPlane, control: ControlPlane, settings: Settings, tokens: Tokens | None
) -> None:
    """Adds the management port's routes."""
    Management(dataplane, control, settings, tokens).add_to(routes)


def add_common(routes: Routes, port: Port) -> Handler:
    """Adds what every port answers: its description, 405 for `/`, 404 for everything unknown. To be called first.

    Returns what answers `/`.
    """
    routes.add(r".*", not_found)
    describe = _describe(
        {"inference": openapi.inference, "management": openapi.management, "metrics": openapi.metrics}[port]
    )

    def root(exchange: Exchange, **_: Any) -> None:
        if exchange.req.method != "OPTIONS":
            raise MethodNotAllowed("OPTIONS")
        describe(exchange)

    routes.add(r"/*", root)
    routes.add(r"/api-description", describe)
    return root


def _describe(document: Any) -> Handler:
    def describe(exchange: Exchange, **_: Any) -> None:
        send_json(exchange.resp, document())

    return describe


def refuse(path: str, error: Error) -> tuple[str, list[tuple[str, str]], bytes]:
    """What TorchServe answers where a request never reaches a route: 413 and 417 are bare, the rest is its error JSON.

    TorchServe has one text for all malformed HTTP; what exactly was wrong goes to the log.
    """
    if error.code in (413, 417):
        return status_line(error.code), [], b""
    log.info("refused a %s: %s", "body" if error.code == 503 else "malformed request", error.body)
    text = "Invalid HTTP message." if error.code == 400 else str(error.body)
    kind = "ServiceUnavailableException" if error.code == 503 else "BadRequestException"
    body = to_json(Problem(error.code, kind, text)._asdict())
    headers = [("content-type", "application/json"), ("x-request-id", new_request_id()), *ENVELOPE.items()]
    return falcon.code_to_http_status(error.code), headers, body
