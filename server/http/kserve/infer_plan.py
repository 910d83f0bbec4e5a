"""The plan of `POST /v2/models/M[/versions/V]/infer`, for models that take tensors and for TorchServe's handlers.

Checks in Triton's order: model, transaction policy, compression, header length, JSON, inputs, outputs, the model's fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....core.call import Call, only
from ....core.errors import JitneyError, ModelNotFound, PayloadTooLarge, QueueFull, Unavailable, Unsupported
from ....core.model_config import ModelConfig
from ....core.request import Part
from ..inline import MAX_COMPRESSED, MAX_OPAQUE, MAX_PARSED
from ..plan import InFlightRequest, RoutePlan
from ..plan import Reply as HttpReply
from ..plan import ReplyHead as HttpHead
from ..torchserve.predict_plan import PredictPlan, PredictServices
from .compression import choose, compress, decompress
from .documents import dump
from .errors import describe
from .headers import ForwardedHeaders
from .reply import render
from .request import InferRequest, Reader, as_json, header_length, read_raw
from .resource import HEADER_LENGTH, JSON, error_headers, status_line, version_of
from .shm import ClientRegions

if TYPE_CHECKING:
    from ...serving.inference_plane import InferencePlane
    from ..engine.parser import RequestHead
    from ..middleware.admission import Admission
    from ..middleware.recorder import Recorder

log = logging.getLogger(__name__)

_LENGTH = HEADER_LENGTH.lower()
_INTERNAL = "internal error, see the server's log"


class ServerFull(Unavailable):
    """The server, and not the model's queue, holds as much as it may."""


@dataclass(frozen=True)
class InferServices:
    """What the plans of one listener work with.

    limit     bytes of the largest body, compressed or not
    regions   the system shared memory that clients registered
    archives  whether models come from archives only: then TorchServe's text tells that there is no such model
    """

    plane: InferencePlane
    recorder: Recorder
    admission: Admission
    regions: ClientRegions
    limit: int
    headers: ForwardedHeaders
    max_response: int
    archives: bool = False

    def plan(self, model: str, version: str | None) -> RoutePlan:
        """The plan for a model by what it is now: tensors, or a handler that reads the body itself."""
        try:
            version = version_of(version)
            handler = self.plane.config(model, version).backend == "handler"
        except JitneyError as error:  # the plan raises the same
            handler = self.archives and isinstance(error, ModelNotFound)
        return HandlerPlan(self, model, version) if handler else InferPlan(self, model, version)


@dataclass(slots=True)
class InferNote:
    """A flight's note: the id that the texts of errors name, the request as it was read, and the coding of its answer."""

    config: ModelConfig
    id: str = ""
    infer: InferRequest | None = None
    encoding: str = ""


class InferPlan(RoutePlan):
    """For models that take tensors."""

    def __init__(self, services: InferServices, model: str, version: str | None) -> None:
        super().__init__(services.recorder, services.admission)
        self._services, self._model, self._version = services, model, version
        self._heads: dict[tuple[bool, str, str], HttpHead] = {}
        self._was_full = False  # when the last request came

    def runs_inline(self, head: RequestHead, nbytes: int) -> bool:
        if "content-encoding" in head.fields:
            return False
        return nbytes <= (MAX_OPAQUE if _LENGTH in head.fields else MAX_PARSED)

    def renders_inline(self, flight: InFlightRequest) -> bool:
        return not flight.note.encoding or flight.weight() <= MAX_COMPRESSED

    # -- the request -------------------------------------------------------------------------------------------------------

    def begin(self, flight: InFlightRequest) -> None:
        services = self._services
        try:
            self.admit(flight)
        except QueueFull as error:
            raise ServerFull(str(error)) from None
        version = version_of(self._version)
        config = services.plane.config(self._model, version)
        if config.decoupled:
            raise Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
        if self._was_full or len(flight.body) > MAX_PARSED:  # before reading costs anything
            services.plane.refuse_if_full(self._model, version)
            self._was_full = False
        accepted = flight.head.fields.get("accept-encoding")
        asked = flight.note = InferNote(config, encoding=choose(accepted) if accepted else "")
        infer = asked.infer = self._read(flight, asked)
        if forwarded := services.headers.of(flight.head.pairs):
            infer.request.parameters = {**infer.request.parameters, **forwarded}
        flight.call = self._queue(version, infer, flight)

    def _queue(self, version: str | None, infer: InferRequest, flight: InFlightRequest) -> Call:
        given = infer.parameters
        try:
            return self._services.plane.infer(
                self._model, version, infer.request,
                priority=given.priority, timeout_us=given.timeout_us, on_answer=flight.answered,
            )  # fmt: skip
        except QueueFull:
            self._was_full = True
            raise

    def _read(self, flight: InFlightRequest, asked: InferNote) -> InferRequest:
        body, length = read_body(flight, self._services.limit)
        if length == 0:
            return read_raw(asked.config, body)
        reader = Reader(asked.config.name, body, length, self._services.regions)
        asked.id = reader.id
        return reader.read()

    # -- the answer --------------------------------------------------------------------------------------------------------

    def render(self, flight: InFlightRequest) -> HttpReply:
        asked: InferNote = flight.note
        call, infer = flight.call, asked.infer
        if call is None or infer is None:
            raise RuntimeError("the request was not queued")
        config = call.config or asked.config
        reply = render(config, config.version, infer, only(flight.responses()))
        body, rest = reply.body, reply.rest
        if asked.encoding:
            body, rest = compress((body, *rest), asked.encoding), ()
        self.passed(flight, 200)
        own = () if reply.header_length is None else ((HEADER_LENGTH, str(reply.header_length)),)
        return HttpReply(self._head(flight, bool(own), asked.encoding), own, body, rest=rest)

    def _head(self, flight: InFlightRequest, binary: bool, encoding: str) -> HttpHead:
        origin = flight.head.fields.get("origin")
        key = binary, encoding, self.recorder.cors.variant(origin)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = HttpHead("200 OK", self.recorder.cors.merged(_headers(binary, encoding), origin))
        return head

    def refuse(self, flight: InFlightRequest, error: Exception) -> HttpReply:
        asked: InferNote | None = flight.note
        return refusal(self, flight, error, asked.id if asked is not None else "")


class HandlerPlan(PredictPlan):
    """For TorchServe's handlers: one gets the body as it is, and its answer goes out as it is.

    Errors have TorchServe's form, with the text under `error` too, as KServe's clients expect it. What is refused before the
    model is asked (a token, a content coding, a body that cannot be read) has Triton's form, as on this path of any other model.
    """

    def __init__(self, services: InferServices, model: str, version: str | None) -> None:
        inference = PredictServices(services.plane, services.recorder, services.admission, services.max_response)
        super().__init__(inference, model, version, {"explain": "False"}, kserve=True)
        self._regions, self._limit = services.regions, services.limit

    def runs_inline(self, head: RequestHead, nbytes: int) -> bool:
        plain = "content-encoding" not in head.fields and _LENGTH not in head.fields
        return plain and super().runs_inline(head, nbytes)

    def read(self, flight: InFlightRequest) -> list[Part]:
        """A compressed or binary request becomes the plain JSON that handlers read."""
        fields = flight.head.fields
        if not fields.get("content-encoding") and _LENGTH not in fields:
            return super().read(flight)
        body, size = read_body(flight, self._limit)
        if size:
            body = as_json(Reader(self.model, body, size, self._regions).read())
        return [Part("body", body, JSON if size != 0 else fields.get("content-type", ""))]

    def refuse(self, flight: InFlightRequest, error: Exception) -> HttpReply:
        if flight.places or isinstance(error, QueueFull):
            return super().refuse(flight, error)
        return refusal(self, flight, error)


def refusal(plan: InferPlan | HandlerPlan, flight: InFlightRequest, error: Exception, request_id: str = "") -> HttpReply:
    """The answer `{"error": text}` with Triton's status and headers."""
    pairs = [("content-type", JSON)]
    if isinstance(error, JitneyError):
        status, text = describe(error, request_id)
        pairs += error_headers(error, status)
    else:
        line = flight.head.line
        log.error("%s %s failed", line.command, line.path, exc_info=error, extra=flight.about())
        status, text = 500, _INTERNAL
    plan.passed(flight, status)
    head = HttpHead(status_line(status), plan.recorder.cors.merged(pairs, flight.head.fields.get("origin")))
    return HttpReply(head, (), dump({"error": text}))


def read_body(flight: InFlightRequest, limit: int) -> tuple[bytes | memoryview, int | None]:
    """The body as it was before compression, and how much of it is JSON (`header_length`)."""
    if len(flight.body) > limit:
        raise PayloadTooLarge(
            f"request size of {len(flight.body)} bytes exceeds the maximum allowed input size of {limit} bytes. Use "
            "max_request_size to increase the limit."
        )
    coding, length = flight.head.fields.get("content-encoding"), flight.head.fields.get(_LENGTH)
    if coding is None and length is None:
        return flight.body, None
    body = decompress(memoryview(flight.body), coding, limit)
    return body, header_length(length, len(body))


def _headers(binary: bool, encoding: str) -> list[tuple[str, str]]:
    pairs = [("content-type", "application/octet-stream" if binary else JSON)]
    return [*pairs, ("Content-Encoding", encoding)] if encoding else pairs
