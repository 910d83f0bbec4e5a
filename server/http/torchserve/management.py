"""TorchServe's management routes: list, register, describe, scale, set-default, unregister, and what belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....core.errors import InvalidParameter, InvalidRequest, Unauthorized
from . import openapi
from .body import query
from .describe import description, kept
from .errors import MethodNotAllowed, Target
from .parameters import boolean, integer, registration
from .render import send_json, send_status
from .routing import MODEL, VERSION, Exchange, Routes, send_no_workflow

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane
    from ...serving.dataplane import DataPlane
    from ...settings.settings import Settings
    from ..middleware.tokens import Tokens

PAGE = 100
PROCESSING = "Processing worker updates..."
SCALING = "Workers scaling in progress..."


def page(models: Sequence[tuple[str, str]], limit: int, start: int) -> dict[str, Any]:
    """Some of the models, (name, URL), from the one with this number on; where the page is full, the number of the next."""
    limit, start = limit if 0 <= limit <= PAGE else PAGE, max(0, start)
    shown = [{"modelName": name, "modelUrl": url} for name, url in models[start : start + limit]]
    return {**({"nextPageToken": str(start + limit)} if start + limit <= len(models) else {}), "models": shown}


def registered(name: str, version: str, workers: int, synchronous: bool) -> tuple[str, int]:
    """What is told of a registration, and the HTTP status."""
    if workers <= 0:
        hint = "Use scale workers API to add workers for the model."
        return f'Model "{name}" Version: {version} registered with 0 initial workers. {hint}', 200
    if synchronous:
        return f'Model "{name}" Version: {version} registered with {workers} initial workers', 200
    return PROCESSING, 202


def scaled(model: str, version: str | None, least: int, running: int | None) -> tuple[str, int]:
    """What is told of a change of workers, and the HTTP status. `running` None: the call has not waited for them."""
    if running is None:
        return PROCESSING, 202
    if running < least:
        return SCALING, 206
    return f"Workers scaled to {least} for model: {f'{model}, version: {version}' if version else model}", 200


@dataclass(frozen=True)
class Management:
    """The handlers of the management port."""

    dataplane: DataPlane
    control: ControlPlane
    settings: Settings
    tokens: Tokens | None

    def add_to(self, routes: Routes) -> None:
        routes.add(r"/workflows(?:/(?P<workflow>[^/]*)(?:/[^/]*)?)?", self.workflows)
        routes.add(rf"/v1/models/{MODEL}", self.ready)
        routes.add(rf"/models/{MODEL}(?:/{VERSION}(?P<default>/set-default)?)?", self.model)
        routes.add(r"/models", self.models)
        if self.tokens is not None:
            routes.add(r"/token", self.token)

    def models(self, exchange: Exchange) -> None:
        match exchange.req.method:
            case "GET":
                self._list(exchange)
            case "POST":
                self._register(exchange)
            case _:
                raise MethodNotAllowed(*self._of_the_list())

    def model(self, exchange: Exchange, model: str, version: str | None = None, default: str | None = None) -> None:
        exchange.target = Target(model, version)
        match exchange.req.method:
            case "GET" if default:  # the default version, whatever the path names (TorchServe)
                self._describe(exchange, model, None)
            case "GET":
                self._describe(exchange, model, version)
            case "PUT" if default:
                self._set_default(exchange, model, version or "")
            case "PUT":
                self._scale(exchange, model, version)
            case "DELETE":
                self._unregister(exchange, model, version)
            case "OPTIONS":
                self.dataplane.describe(model, version)
                send_json(exchange.resp, openapi.model_management(model))
            case _:
                raise MethodNotAllowed(*self._of_a_model())

    def ready(self, exchange: Exchange, model: str) -> None:
        """KServe v1's readiness: whether the model has workers, even if they still load."""
        if exchange.req.method != "GET":
            raise MethodNotAllowed("GET")
        found = self.dataplane.describe(model, None)
        send_json(exchange.resp, {"name": model, "ready": bool(kept(found[0]))})

    def token(self, exchange: Exchange) -> None:
        """A new key for `?type=`; the answer is a lone newline, the key stands in the key file (TorchServe)."""
        kind = query(exchange.req.query_string).get("type")
        authorization = exchange.req.get_header("Authorization")
        if self.tokens is None or not self.tokens.renew(kind, authorization):
            text = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
            raise Unauthorized(text)
        exchange.resp.content_type = "application/json"
        exchange.resp.data = b"\n"

    def workflows(self, exchange: Exchange, workflow: str | None = None) -> None:
        """There are none. TorchServe's last version refuses to register any, too."""
        match exchange.req.method:
            case "GET" if not workflow:
                send_json(exchange.resp, {"workflows": []})
            case "POST" if not workflow:
                if "url" not in query(exchange.req.query_string):
                    raise InvalidParameter("url", None, "a workflow archive")
                raise InvalidRequest("Registering new workflows is disabled.")
            case "GET" | "DELETE" if workflow:
                send_no_workflow(exchange, workflow)
            case _:
                raise MethodNotAllowed("GET", "DELETE" if workflow else "POST")

    # -- one verb each ---------------------------------------------------------------------------------------------------

    def _list(self, exchange: Exchange) -> None:
        given = query(exchange.req.query_string)
        limit, start = integer(given, "limit", PAGE), integer(given, "next_page_token", 0)
        send_json(exchange.resp, page(self.dataplane.models(), limit, start))

    def _register(self, exchange: Exchange) -> None:
        if not self.settings.model_api:
            raise MethodNotAllowed(*self._of_the_list())
        spec = registration(exchange.req)
        exchange.target = Target(spec.model_name or "")
        name, version, workers = self.control.archives.register(spec)
        send_status(exchange.resp, *registered(name, version, workers, spec.synchronous))

    def _describe(self, exchange: Exchange, model: str, version: str | None) -> None:
        documents = [description(found) for found in self.dataplane.describe(model, version)]
        if version != "all" and boolean(query(exchange.req.query_string), "customized", False):
            exchange.target = Target(model, version, "describe")
            documents[0]["customizedMetadata"] = self.dataplane.customized_metadata(model, version)
            send_json(exchange.resp, documents)
            exchange.resp.status = "200 "  # like a prediction's, for the worker's word
        else:
            send_json(exchange.resp, documents)

    def _scale(self, exchange: Exchange, model: str, version: str | None) -> None:
        given = query(exchange.req.query_string)
        version = version or given.get("model_version") or None
        exchange.target = Target(model, version)
        least = integer(given, "min_worker", 1)
        most = integer(given, "max_worker", least)
        if most < least:
            raise InvalidRequest("max_worker cannot be less than min_worker.")
        if least < 0:
            self.dataplane.describe(model, version)  # an unknown model is told of first
            raise InvalidRequest(f"min_worker must be at least 0, got {least}")
        synchronous = boolean(given, "synchronous", False)
        running = self.control.archives.scale(model, version, least, most, synchronous)
        send_status(exchange.resp, *scaled(model, version, least, running if synchronous else None))

    def _set_default(self, exchange: Exchange, model: str, version: str) -> None:
        exchange.target = Target(model, version, "set-default")
        self.control.archives.set_default(model, version)
        send_status(exchange.resp, f'Default version successfully updated for model "{model}" to "{version}"')

    def _unregister(self, exchange: Exchange, model: str, version: str | None) -> None:
        if not self.settings.model_api:
            raise MethodNotAllowed(*self._of_a_model())
        self.control.archives.unregister(model, version)
        send_status(exchange.resp, f'Model "{model}" unregistered')

    # -- which methods there are: registering and unregistering may be switched off ---------------------------------------

    def _of_the_list(self) -> list[str]:
        return ["GET", "POST"] if self.settings.model_api else ["GET"]

    def _of_a_model(self) -> list[str]:
        return ["GET", "PUT", "DELETE", "OPTIONS"] if self.settings.model_api else ["GET", "PUT", "OPTIONS"]
