"""`POST /v2/models/M[/versions/V]/infer`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import falcon

from ....backends.base import Part, Response
from ...call import Call
from ...errors import JitneyError, ModelFailed, Unsupported
from ...repository.config import ModelConfig
from ..later import later_of, wait_for
from ..quick import MAX_PARSED
from ..wsgi import on_disconnect
from .compression import choose, compress, decompress
from .headers import ForwardedHeaders
from .reply import Reply, render
from .request import InferRequest, Reader, as_json, header_length, read_raw
from .resource import JSON, Resource, answers_errors, guarded, read_body, version_of
from .shm import Regions
from .shortcut import HEADER_LENGTH, InferShortcut, take_place

if TYPE_CHECKING:
    from ...dataplane import DataPlane
    from ..access import Access
    from ..admission import Admission
    from ..express import Shortcut

InferWithHandler = Callable[[falcon.Request, falcon.Response, str, str | None, list[Part] | None], None]
"""Answers (request, response, model, version, parts) where the model is a TorchServe handler, also what goes wrong. `parts` stand
for the body where that is not what a handler can read, else None."""


class Infer(Resource):
    """Checks in Triton's order: model, transaction policy, compression, header length, JSON, inputs, outputs, the model's fit."""

    def __init__(
        self,
        dataplane: DataPlane,
        regions: Regions,
        max_request_size: int,
        headers: ForwardedHeaders,
        infer_with_handler: InferWithHandler | None,
        admission: Admission | None = None,
    ) -> None:
        self.dataplane, self.regions, self._limit = dataplane, regions, max_request_size
        self._admission = admission
        self._headers, self._infer_with_handler = headers, infer_with_handler

    def shortcut(self, req: falcon.Request, access: Access, model: str, version: str | None = None) -> Shortcut | None:
        """The shortcut for requests with the head of `req`; None where only `on_post` can tell what to do with them."""
        env = req.env
        compressed = "HTTP_CONTENT_ENCODING" in env or choose(env.get("HTTP_ACCEPT_ENCODING"))
        if self._admission is None or compressed or req.content_length is None or req.content_length > self._limit:
            return None
        try:
            return InferShortcut(self, self._admission, access, req, (model, version_of(version)), self._headers.of(req))
        except JitneyError:
            return None

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        if self._admission is not None and later_of(req) is not None:
            take_place(self._admission, req)  # the short way does not pass the application's middleware
        version = version_of(version)
        config = self.dataplane.config(model, version)
        if config.backend == "handler" and self._infer_with_handler is not None:
            self._infer_with_handler(req, resp, model, version, self._parts(req, config))
            return
        if config.decoupled:
            raise Unsupported("HTTP end point doesn't support models with decoupled transaction policy")
        if (req.content_length or 0) > MAX_PARSED:  # before reading costs anything
            self.dataplane.refuse_if_full(model, version)
        asked = self._read(req, config)
        asked.request.parameters = {**asked.request.parameters, **self._headers.of(req)}
        call = self._submit(model, version, asked)
        on_disconnect(req, call.cancel)
        finish = partial(self.answer, req, resp, call, call.config or config, asked)
        wait_for(req, resp, call, finish, partial(guarded, req, resp), whole=True)

    def _read(self, req: falcon.Request, config: ModelConfig) -> InferRequest:
        body = decompress(read_body(req, self._limit), req.env.get("HTTP_CONTENT_ENCODING"), self._limit)
        length = header_length(req.env.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH"), len(body))
        if length == 0:
            return read_raw(config, body)
        reader = Reader(config.name, body, length, self.regions)
        req.context.request_id = reader.id
        return reader.read()

    def _parts(self, req: falcon.Request, config: ModelConfig) -> list[Part] | None:
        """A compressed or binary request as the plain JSON that handlers read; None where it is that already."""
        encoding, length = req.get_header("Content-Encoding"), req.get_header(HEADER_LENGTH)
        if not encoding and length is None:
            return None
        body = decompress(read_body(req, self._limit), encoding, self._limit)
        size = header_length(length, len(body))
        if size:
            body = as_json(Reader(config.name, body, size, self.regions).read())
        return [Part("body", body, JSON if size != 0 else req.content_type or "")]

    def _submit(self, model: str, version: str | None, asked: InferRequest) -> Call:
        parameters = asked.parameters
        return self.dataplane.infer(
            model, version, asked.request, priority=parameters.priority, timeout_us=parameters.timeout_us
        )

    def answer(
        self, req: falcon.Request, resp: falcon.Response, call: Call, config: ModelConfig, asked: InferRequest
    ) -> None:
        """Renders what the model answers."""
        self.send(req, resp, render(config, config.version, asked, _only(call)))

    def send(self, req: falcon.Request, resp: falcon.Response, reply: Reply) -> None:
        """The answer with this reply, compressed if the client asked for that."""
        resp.content_type = JSON
        if reply.header_length is not None:
            resp.content_type = "application/octet-stream"
            resp.set_header(HEADER_LENGTH, str(reply.header_length))
            req.env.setdefault("jitney.spelling", {})[HEADER_LENGTH.lower()] = HEADER_LENGTH
        encoding = choose(req.env.get("HTTP_ACCEPT_ENCODING"))
        if encoding:
            resp.set_header("Content-Encoding", encoding)
        resp.data = compress(reply.body, encoding) if encoding else reply.body


def _only(call: Call) -> Response:
    """The response of a model that gives one; a final one without outputs may follow it."""
    found: Response | None = None
    for response in call.stream():
        if found is not None and found.tensors and response.tensors:
            call.cancel()
            raise ModelFailed("the model gave more than one response to a request", "BAD_OUTPUT")
        if found is None or response.tensors:
            found = response
    if found is None:
        raise ModelFailed("the model gave no response", "BAD_OUTPUT")
    return found
