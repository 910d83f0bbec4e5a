"""TorchServe's inference routes: ping, predictions, explanations, KServe v1, SageMaker's and the legacy ones.

No route looks at the method, except OPTIONS, which describes. A request waits without a thread where the front can do that, and
in the thread that reads it where it cannot; when its client goes away its call is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ....backends.base import Part, Request, Response
from ...call import Call
from ...errors import Cancelled, InvalidParameter, JitneyError, ModelNotFound, VersionNotFound, WorkerDied
from ..later import later_of, wait_for
from ..wsgi import at_end, body_of, on_disconnect
from . import openapi
from .body import client_headers, is_urlencoded, query, query_parts, read_parts, with_route
from .errors import Target
from .render import send_json, send_prediction, send_status
from .routing import MODEL, VERSION, Exchange, Routes
from .shortcut import PredictionShortcut

if TYPE_CHECKING:
    import falcon

    from ...dataplane import DataPlane
    from ...metrics import Metrics
    from ..access import Access
    from ..admission import Admission
    from ..express import Shortcut

log = logging.getLogger(__name__)

REST = r"(?P<rest>.*)"


@dataclass(frozen=True)
class Inference:
    """The handlers of the inference port."""

    dataplane: DataPlane
    admission: Admission
    metrics: Metrics
    max_response: int

    def add_to(self, routes: Routes) -> None:
        routes.add(rf"/{MODEL}(?:/{VERSION})?/predict", self.legacy)
        routes.add(rf"/models/{MODEL}/invoke", self.legacy)
        routes.add(r"/invocations", self.invocations)
        routes.add(rf"/v2/models/{MODEL}/explain", self.kserve_explain)
        routes.add(rf"/v1/models/{MODEL}:predict", self.kserve_predict)
        routes.add(rf"/v1/models/{MODEL}:explain", self.kserve_explain)
        routes.add(rf"/predictions/{MODEL}(?:/{VERSION}(?:/{REST})?)?", self.predictions, self.shortcut)
        routes.add(rf"/explanations/{MODEL}(?:/{VERSION}(?:/{REST})?)?", self.explanations)
        routes.add(r"/ping(?:/.*)?", self.ping)

    def ping(self, exchange: Exchange, **_: Any) -> None:
        healthy = self.dataplane.healthy()
        send_status(exchange.resp, "Healthy" if healthy else "Unhealthy", 200 if healthy else 500)

    def predictions(self, exchange: Exchange, model: str, version: str | None = None, rest: str | None = None) -> None:
        if exchange.req.method == "OPTIONS":
            self._describe(exchange, model, version)
        else:
            self._predict(exchange, model, version, {"url_path": rest or "", "explain": "False"})

    def shortcut(
        self, req: Any, access: Access, model: str, version: str | None = None, rest: str | None = None
    ) -> Shortcut | None:
        """The shortcut of `predictions` for requests with the head of `req`."""
        return None if rest else PredictionShortcut(self, access, req, model, version)

    def infer(self, exchange: Exchange, model: str, version: str | None, parts: list[Part] | None) -> None:
        """KServe's `infer`; `parts` stand for a body that had to be decoded before a handler could read it."""
        self._predict(exchange, model, version, {"explain": "False"}, parts=parts)

    def kserve_predict(self, exchange: Exchange, model: str) -> None:
        """KServe's routes know no path behind the model, so their handlers see no `url_path` (TorchServe).

        For models of a repository the text of an error stands where clients of KServe look for it.
        """
        exchange.kserve = not self.is_archive(model, None)
        if exchange.req.method == "OPTIONS":
            self._describe(exchange, model, None)
        else:
            self._predict(exchange, model, None, {"explain": "False"})

    def kserve_explain(self, exchange: Exchange, model: str) -> None:
        if exchange.req.method == "OPTIONS":
            self._describe(exchange, model, None)
        else:
            self._predict(exchange, model, None, {"explain": "True"})

    def explanations(self, exchange: Exchange, model: str, version: str | None = None, rest: str | None = None) -> None:
        if exchange.req.method == "OPTIONS":
            self._describe(exchange, model, version)
        else:
            self._predict(exchange, model, version, {"url_path": rest or "", "explain": "True"})

    def legacy(self, exchange: Exchange, model: str, version: str | None = None) -> None:
        """`/{m}/predict` and SageMaker's `/models/{m}/invoke`: the query's parameters are inputs too, before the body's."""
        if exchange.req.method == "OPTIONS":
            self._describe(exchange, model, version)
        else:
            self._predict(exchange, model, version, {}, query_parts(exchange.req))

    def invocations(self, exchange: Exchange) -> None:
        """SageMaker: the model is in the query, or is the only one loaded at start, or a field of the body."""
        body = body_of(exchange.req)
        model = query(exchange.req).get("model_name") or self._only_model()
        model = model or _field(read_parts(exchange.req, body), "model_name")
        if not model:
            raise InvalidParameter("model_name", None, "the name of a model")
        parts = self.parts(exchange.req, model, None, body)
        self._predict(exchange, model, None, {}, query_parts(exchange.req), parts)

    def parts(self, req: falcon.Request, model: str, version: str | None, body: memoryview | None = None) -> list[Part]:
        """The request's parts as this model gets them: a handler what TorchServe would give it, a codec what was meant."""
        return read_parts(req, body, believes=not is_urlencoded(req) or self.is_archive(model, version))

    def is_archive(self, model: str, version: str | None) -> bool:
        """Whether TorchServe's clients know this model's answers to the letter; so too where there is no such model."""
        try:
            return self.dataplane.config(model, version).is_archive
        except JitneyError:
            return True

    def aim(self, exchange: Exchange, model: str, version: str | None) -> None:
        """Says whom the request is for, which error texts name."""
        exchange.target = Target(model, version)
        exchange.hides_reasons = partial(self.is_archive, model, version)

    def _only_model(self) -> str | None:
        started = [name for name, _ in self.dataplane.models() if self.dataplane.config(name, None).loaded_at_startup]
        return started[0] if len(started) == 1 else None

    def _describe(self, exchange: Exchange, model: str, version: str | None) -> None:
        self.dataplane.config(model, version)
        send_json(exchange.resp, openapi.prediction(model))

    def _predict(
        self,
        exchange: Exchange,
        model: str,
        version: str | None,
        route: dict[str, str],
        more: list[Part] | None = None,
        parts: list[Part] | None = None,
    ) -> None:
        self.aim(exchange, model, version)
        parts = self.parts(exchange.req, model, version) if parts is None else parts
        headers = with_route(client_headers(exchange.req), route)
        request = Request(id=exchange.id, parts=[*(more or []), *parts], headers=headers)
        if later_of(exchange.req) is None:
            self.admission.hold(exchange.req)
        else:
            self.admission.queue(exchange.req)
        call = self._submit(model, version, request)
        on_disconnect(exchange.req, call.cancel)
        at_end(exchange.req, call.cancel)
        finish = partial(self.answer, exchange, model, version, call)
        wait_for(exchange.req, exchange.resp, call, finish, exchange.guard, whole=False)

    def answer(self, exchange: Exchange, model: str, version: str | None, call: Call) -> None:
        """Renders what the model answers: one response, or a stream of them."""
        answers = self.dataplane.answer(call)
        first = self._checked(next(answers), model)
        send_prediction(exchange.req, exchange.resp, first)
        if first.final:
            exchange.resp.data = bytes(first.body or b"")
            self.metrics.torchserve.answered(model, version, call.times)
        else:
            self.admission.hold(exchange.req)  # a stream needs a thread, where none waited for the answer until now
            exchange.resp.set_header("ts_stream_next", "true")
            exchange.resp.stream = _stream(first, answers)

    def _checked(self, response: Response, model: str) -> Response:
        """TorchServe's worker dies of an answer that is too large; here it lives, and the client is told the same."""
        size = len(response.body or b"")
        if size > self.max_response:
            log.error("model '%s' answered with %d bytes, more than max_response_size=%d", model, size, self.max_response)
            raise WorkerDied(f"the answer has {size} bytes, more than max_response_size={self.max_response}")
        return response

    def _submit(self, model: str, version: str | None, request: Request) -> Call:
        """Queues the request and counts it, also where it is refused, unless no such model exists."""
        try:
            call = self.dataplane.predict(model, version, request)
        except (ModelNotFound, VersionNotFound):
            raise
        except JitneyError:
            self.metrics.torchserve.requested(model, version)
            raise
        self.metrics.torchserve.requested(model, version)
        return call


def _stream(first: Response, rest: Iterator[Response]) -> Iterator[bytes]:
    """The chunks of a streamed answer; an error after the first cuts the connection, so that no client takes it for the end."""
    yield bytes(first.body or b"")
    try:
        for response in rest:
            yield bytes(response.body or b"")
    except Cancelled:
        return  # nobody reads
    except JitneyError as error:
        log.error("a streamed answer ended early: %s", error)
        raise


def _field(parts: list[Part], name: str) -> str | None:
    return next((bytes(part.data).decode("utf-8", "replace") for part in parts if part.name == name), None)
