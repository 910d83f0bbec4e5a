"""The shortcut of `POST /v2/models/M[/versions/V]/infer`: what `Infer.on_post` does for the usual request, on a shorter way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....backends.base import Parameter
from ...call import Call
from ...errors import JitneyError, QueueFull, Unavailable
from ...repository.config import ModelConfig
from ..express import Block, Plain, Trip, Unusual, light
from ..quick import MAX_OPAQUE, MAX_PARSED
from .reply import Reply, render
from .request import InferRequest, Reader, header_length, read_raw
from .resource import set_failure

if TYPE_CHECKING:
    from ..access import Access
    from ..admission import Admission
    from .infer import Infer

HEADER_LENGTH = "Inference-Header-Content-Length"


class ServerFull(Unavailable):
    """The server, and not the model's queue, holds as much as it may."""


def take_place(admission: Admission, req: Any) -> None:
    """A place among those that wait, until the answer is out, unless the request has one. Raises ServerFull."""
    try:
        admission.queue(req)
    except QueueFull as error:
        raise ServerFull(str(error)) from None


@dataclass(slots=True)
class Asked:
    """A trip's note: its request as it was read, and the id that the texts of errors name."""

    config: ModelConfig
    id: str = ""
    infer: InferRequest | None = None


class InferShortcut:
    """`http.express.Shortcut` for one head."""

    streams = False

    def __init__(
        self,
        infer: Infer,
        admission: Admission,
        access: Access,
        req: Any,
        target: tuple[str, str | None],
        parameters: dict[str, Parameter],
    ) -> None:
        self._infer, self._places, self._access, self._req = infer, admission.waiting, access, req
        self._parameters = parameters
        self._model, self._version = target
        self._size = req.content_length or 0
        self._length = header_length(req.get_header(HEADER_LENGTH), self._size)
        self._json, self._binary = self._block(Reply(b"")), self._block(Reply(b"", 0))

    def _block(self, reply: Reply) -> Block:
        req, resp = light(self._req.env, 0)
        self._infer.send(req, resp, reply)
        self._access.allow_origins(req, resp)
        return Block.of(req, resp, without=HEADER_LENGTH.lower())

    def is_quick(self) -> bool:
        return self._size <= (MAX_PARSED if self._length is None else MAX_OPAQUE)

    def begin(self, trip: Trip) -> bool:
        infer = self._infer
        try:
            self._places.enter()
        except QueueFull as error:
            raise ServerFull(str(error)) from None
        trip.admitted = True
        config = infer.dataplane.config(self._model, self._version)
        if config.backend == "handler" or config.decoupled:
            return False
        note = trip.note = Asked(config)
        asked = note.infer = self._read(trip, note)
        if self._parameters:
            asked.request.parameters = {**asked.request.parameters, **self._parameters}
        given = asked.parameters
        trip.call = infer.dataplane.infer(
            self._model, self._version, asked.request,
            priority=given.priority, timeout_us=given.timeout_us, on_answer=trip.answered,
        )  # fmt: skip
        return True

    def _read(self, trip: Trip, note: Asked) -> InferRequest:
        if self._length == 0:
            return read_raw(note.config, memoryview(trip.body))
        reader = Reader(note.config.name, memoryview(trip.body), self._length, self._infer.regions)
        note.id = reader.id
        return reader.read()

    def render(self, trip: Trip) -> Plain:
        note, call, response = trip.note, trip.call, trip.answer
        if call is None or response is None:
            raise Unusual
        if isinstance(response, JitneyError):
            raise response
        reply = self._rendered(note, call, trip)
        self._access.metrics.torchserve.responded(200)
        if self._access.logs:
            self._access.log(self._req, 200, trip.began, trip.peer)
        if reply.header_length is None:
            return Plain(self._json, None, reply.body)
        return Plain(self._binary, (HEADER_LENGTH, str(reply.header_length)), reply.body)

    def _rendered(self, note: Asked, call: Call, trip: Trip) -> Reply:
        config = call.config or note.config
        if note.infer is None or trip.answer is None or isinstance(trip.answer, JitneyError):
            raise Unusual
        return render(config, config.version, note.infer, trip.answer)

    def respond(self, trip: Trip, req: Any, resp: Any, error: Exception | None) -> None:
        note: Asked | None = trip.note
        req.context.request_id = note.id if note is not None else ""
        try:
            if error is not None:
                raise error
            call = trip.unpack()
            if note is None or note.infer is None:
                raise Unusual
            self._infer.answer(req, resp, call, call.config or note.config, note.infer)
        except Exception as failure:  # noqa: BLE001 - every accepted request is answered
            set_failure(req, resp, failure)
        self._access.process_response(req, resp, None, True)

    def end(self, trip: Trip) -> None:
        if trip.admitted:
            trip.admitted = False
            self._places.leave()
