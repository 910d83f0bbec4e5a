"""The shortcut of `/predictions/{model}`: what `Inference.predictions` does for the usual request, without going its way."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ....backends.base import Part, Request, Response
from ...errors import JitneyError, ModelNotFound, VersionNotFound
from ...metrics.ledger import Ledger
from ..express import Block, Plain, Trip, Unusual, light
from ..quick import predicts_quickly
from ..receiver import BodyStream
from .body import FORM, client_headers, with_route
from .render import new_request_id, seal, send_prediction
from .routing import Exchange, answer

if TYPE_CHECKING:
    from ..access import Access
    from .inference import Inference

#: Different heads of answers that are kept for one head of requests; more come from a model that makes up headers.
MAX_BLOCKS = 32
_MULTIPART = "multipart/form-data"


class PredictionShortcut:
    """`http.express.Shortcut` for one head. A trip's note is its request id."""

    streams = True

    def __init__(self, inference: Inference, access: Access, req: Any, model: str, version: str | None) -> None:
        self._inference, self._access, self._req = inference, access, req
        self._model, self._version = model, version
        self._headers = with_route(client_headers(req), {"url_path": "", "explain": "False"})
        self._type = (req.content_type or "").partition(";")[0].strip()
        self._whole = self._type.lower() not in (_MULTIPART, FORM)
        self._length = req.content_length or 0
        self._blocks: dict[tuple[object, ...], Block] = {}
        self._ledger: Ledger | None = None
        self._usual: Block | None = None  # of a response that says nothing of its head

    def is_quick(self) -> bool:
        return predicts_quickly(self._inference.dataplane, self._model, self._version, self._length)

    def begin(self, trip: Trip) -> bool:
        inference = self._inference
        trip.note = new_request_id()
        parts = [Part("body", trip.body, self._type)] if self._whole else self._fields(trip)
        inference.admission.waiting.enter()
        trip.admitted = True
        request = Request(trip.note, [], parts, self._headers)
        try:
            trip.call = inference.dataplane.predict(self._model, self._version, request, on_answer=trip.answered)
        except (ModelNotFound, VersionNotFound):
            raise
        except JitneyError:
            inference.metrics.torchserve.requested(self._model, self._version)
            raise
        self._counts().requested()
        return True

    def _fields(self, trip: Trip) -> list[Part]:
        req, _ = light({**self._req.env, "wsgi.input": BodyStream(trip.body)}, self._length)
        return self._inference.parts(req, self._model, self._version)

    def _counts(self) -> Ledger:
        """Made with the first request that a model took: a name that nothing has is not to be remembered."""
        if self._ledger is None:
            self._ledger = Ledger(self._inference.metrics.torchserve, self._model, self._version)
        return self._ledger

    def render(self, trip: Trip) -> Plain:
        call, response = trip.call, trip.answer
        if call is None or response is None:
            raise Unusual
        if isinstance(response, JitneyError):
            raise response
        if call.encode is not None:
            response = call.encode(response)
        body = bytes(response.body or b"")
        if len(body) > self._inference.max_response:
            raise Unusual
        block = self._block(response)
        self._counts().answered(call.times)
        if self._access.logs:
            self._access.log(self._req, response.status, trip.began, trip.peer)
        return Plain(block, ("x-request-id", trip.note), body)

    def _block(self, response: Response) -> Block:
        if response.headers or response.status != 200 or response.reason:
            return self._other_block(response)
        if self._usual is None:
            self._usual = self._make_block(response)
        return self._usual

    def _other_block(self, response: Response) -> Block:
        key = (response.status, response.reason, *response.headers.items())
        block = self._blocks.get(key)
        if block is None:
            block = self._make_block(response)
            if len(self._blocks) < MAX_BLOCKS:
                self._blocks[key] = block
        return block

    def _make_block(self, response: Response) -> Block:
        """The head that the route would make; Unusual for all but plain success."""
        req, resp = light(self._req.env, self._length)
        if not 200 <= response.status < 300:
            raise Unusual
        send_prediction(req, resp, response)
        seal(req, resp, "")
        self._access.allow_origins(req, resp)
        return Block.of(req, resp, without="x-request-id")

    def respond(self, trip: Trip, req: Any, resp: Any, error: Exception | None) -> None:
        exchange = Exchange(req, resp)
        exchange.id = trip.note or exchange.id
        self._inference.aim(exchange, self._model, self._version)
        if error is None:
            finish = partial(self._inference.answer, exchange, self._model, self._version, trip.unpack())
            answer(exchange, lambda _: finish())
        else:
            answer(exchange, partial(_refuse, error))
        self._access.process_response(req, resp, None, True)

    def end(self, trip: Trip) -> None:
        if trip.admitted:
            trip.admitted = False
            self._inference.admission.waiting.leave()


def _refuse(error: Exception, _: Exchange) -> None:
    raise error
