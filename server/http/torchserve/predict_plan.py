"""The plans of TorchServe's inference routes: predictions, explanations, KServe v1, SageMaker's and the legacy ones.

A plan's note in a flight is its `PredictNote`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from ....core.errors import Cancelled, InvalidParameter, JitneyError, ModelNotFound, VersionNotFound, WorkerDied
from ....core.holding import COUNTED
from ....core.request import Part, Request, Response
from ...ipc.memory import flat
from ...metrics.request_counters import RequestCounters
from ..inline import inline_limit
from ..plan import MAX_HEADS, InFlightRequest, Reply, ReplyHead, RoutePlan
from .body import FORMS, client_headers, media_type, query, query_parts, read_parts, read_parts_strictly
from .errors import Target, problem, with_reason
from .render import ENVELOPE_PAIRS, new_request_id, prediction_head, problem_reply

if TYPE_CHECKING:
    from ...serving.inference_plane import InferencePlane
    from ..engine.parser import RequestHead
    from ..middleware.admission import Admission
    from ..middleware.recorder import Recorder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictServices:
    """What the plans of one listener work with. `max_response`: bytes of the largest answer."""

    plane: InferencePlane
    recorder: Recorder
    admission: Admission
    max_response: int

    def is_archive(self, model: str, version: str | None) -> bool:
        """Whether TorchServe's clients know this model's answers to the letter; so too where there is no such model."""
        try:
            return self.plane.config(model, version).is_archive
        except JitneyError:
            return True


class PredictNote:
    """The id that TorchServe gives a request, and what the request names."""

    __slots__ = ("id", "target")

    def __init__(self, target: Target) -> None:
        self.id, self.target = new_request_id(), target


class PredictPlan(RoutePlan):
    """Predictions or explanations of one model.

    version  as the path names it, None where it does not
    route    what handlers are told of the route, as if it were headers
    queries  whether the query's parameters are inputs
    kserve   whether the text of an error stands under `error` too, where clients of KServe v2 look for it
    """

    streams = True

    def __init__(
        self, inference: PredictServices, model: str, version: str | None, route: Mapping[str, str], *, queries: bool = False,
        kserve: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(inference.recorder, inference.admission)
        self.inference, self.model, self.version = inference, model, version
        self._target = Target(model, version)
        self._route, self._queries, self._kserve = dict(route), queries, kserve
        self._inline = inline_limit(inference.plane, model, version)
        self._heads: dict[tuple[object, ...], ReplyHead] = {}
        self._usual: ReplyHead | None = None  # of an answer that says nothing of its head
        self._counters: RequestCounters | None = None

    def runs_inline(self, head: RequestHead, nbytes: int) -> bool:
        return nbytes <= self._inline and self._route.get("explain") != "True"  # which may start a worker

    # -- the request -------------------------------------------------------------------------------------------------------

    def begin(self, flight: InFlightRequest) -> None:
        asked = flight.note = PredictNote(self._target)
        head = flight.head
        parts = self.read(flight)
        if self._queries:
            parts = [*query_parts(head.line.query), *parts]
        headers = client_headers(head, len(flight.body))
        headers |= self._route
        self.admit(flight)
        self._submit(flight, asked, Request(asked.id, [], parts, headers))

    def read(self, flight: InFlightRequest) -> list[Part]:
        """The parts of the body."""
        return self.parts(flight, self.model, self.version)

    def parts(self, flight: InFlightRequest, model: str, version: str | None) -> list[Part]:
        """The parts as this model gets them: a handler what TorchServe would give it, a codec what was meant."""
        label = flight.head.fields.get("content-type", "")
        mime, kind = media_type(label)
        if kind not in FORMS:
            return [Part("body", flight.body, mime)]
        return (read_parts if self.inference.is_archive(model, version) else read_parts_strictly)(flight.body, label)

    def _submit(self, flight: InFlightRequest, asked: PredictNote, request: Request) -> None:
        """Queues the request and counts it, also where it is refused, unless no such model exists."""
        model, version = asked.target.model, asked.target.version
        try:
            flight.call = self.inference.plane.predict(model, version, request, on_answer=flight.answered)
        except (ModelNotFound, VersionNotFound):
            raise
        except JitneyError:
            self.inference.recorder.metrics.requested(model, version)
            raise
        self._counts(asked.target).requested()

    def _counts(self, target: Target) -> RequestCounters:
        """Made with the first request that a model took: a name that nothing has is not to be remembered."""
        if self._counters is None:
            self._counters = RequestCounters(self.inference.recorder.metrics, target.model, target.version)
        return self._counters

    # -- the answer --------------------------------------------------------------------------------------------------------

    def render(self, flight: InFlightRequest) -> Reply:
        """One response, or a stream of them."""
        asked: PredictNote = flight.note
        encode = flight.call.encode if flight.call is not None else None
        if flight.mailbox is None:
            first = flight.answer if isinstance(flight.answer, Response) else flight.only()
            return self._whole(flight, asked, first if encode is None else encode(first))
        answers = flight.responses() if encode is None else map(encode, flight.responses())
        first = next(answers)
        if first.final:
            return self._whole(flight, asked, first)
        body = self._body(first, flight)
        self.keep_thread(flight)
        head = self._head(flight, first, ("ts_stream_next", "true"))
        self.passed(flight, head.code)
        return Reply(head, (("x-request-id", asked.id),), stream=_stream(body, answers, flight.about()))

    def _whole(self, flight: InFlightRequest, asked: PredictNote, response: Response) -> Reply:
        body = self._body(response, flight)
        head = self._head(flight, response)
        if flight.call is not None and head.code < 400:
            self._counts(asked.target).answered(flight.call.times)
            self.log(flight, head.code)
        else:
            self.passed(flight, head.code)
        if isinstance(body, bytes):
            return Reply(head, (("x-request-id", asked.id),), body)
        return Reply(head, (("x-request-id", asked.id),), rest=(body,))

    def _body(self, response: Response, flight: InFlightRequest) -> bytes | memoryview:
        """TorchServe's worker dies of an answer that is too large; here it lives, and the client is told the same."""
        body, limit = _sendable(response), self.inference.max_response
        if len(body) <= limit:
            return body
        model, told = flight.note.target.model, flight.about()
        log.error("model '%s' answered with %d bytes, more than max_response_size=%d", model, len(body), limit, extra=told)
        raise WorkerDied(f"the answer has {len(body)} bytes, more than max_response_size={limit}")

    def _head(self, flight: InFlightRequest, response: Response, *more: tuple[str, str]) -> ReplyHead:
        cors = self.recorder.cors
        varies = cors.variant(flight.head.fields.get("origin")) if cors.varies else ""
        if response.headers or response.status != 200 or response.reason or more or varies:
            return self._other_head(flight, response, more, varies)
        if self._usual is None:
            self._usual = self._make_head(flight, response, more)
        return self._usual

    def _other_head(
        self, flight: InFlightRequest, response: Response, more: tuple[tuple[str, str], ...], varies: str
    ) -> ReplyHead:
        key = (response.status, response.reason, more, varies, *response.headers.items())
        head = self._heads.get(key)
        if head is None:
            head = self._make_head(flight, response, more)
            if len(self._heads) < MAX_HEADS:
                self._heads[key] = head
        return head

    def _make_head(self, flight: InFlightRequest, response: Response, more: tuple[tuple[str, str], ...]) -> ReplyHead:
        status, pairs = prediction_head(response)
        told = {name for name, _ in more}  # by the server, whatever the model says
        pairs = [pair for pair in pairs if pair[0].lower() not in told]
        pairs = self.recorder.cors.merged([*pairs, *more, *ENVELOPE_PAIRS], flight.head.fields.get("origin"))
        return ReplyHead(status, pairs, "keep-alive" if response.status < 400 else "close")

    def refuse(self, flight: InFlightRequest, error: Exception) -> Reply:
        asked: PredictNote = flight.note or PredictNote(self._target)
        line = flight.head.line
        if not isinstance(error, JitneyError):
            log.error("%s %s failed", line.command, line.path, exc_info=error, extra=flight.about())
        found = problem(error, asked.target)
        if not self.inference.is_archive(asked.target.model, asked.target.version):
            found = with_reason(found, error)
        merged = partial(self.recorder.cors.merged, origin=flight.head.fields.get("origin"))
        reply = problem_reply(found, error, merged, kserve=self._kserve)
        self.passed(flight, reply.head.code)
        return reply._replace(own=(("x-request-id", asked.id),))


class InvocationPlan(PredictPlan):
    """SageMaker's `/invocations`: the model is in the query, or is `only_model`'s, or a field of the body."""

    def __init__(self, inference: PredictServices, only_model: Callable[[], str | None]) -> None:
        super().__init__(inference, "", None, {}, queries=True)
        self._only = cache(only_model)
        self._counters_of: dict[str, RequestCounters] = {}

    def runs_inline(self, head: RequestHead, nbytes: int) -> bool:
        try:
            model = None if head.line.query else self._only()
        except JitneyError:  # a model that goes at this moment; `begin` tells
            return False
        return model is not None and nbytes <= inline_limit(self.inference.plane, model, None)

    def read(self, flight: InFlightRequest) -> list[Part]:
        model = self.named(flight.head.line.query, lambda: self._named(flight))
        flight.note.target = Target(model, None)
        return self.parts(flight, model, None)

    def named(self, text: str, other: Callable[[], str | None] = lambda: None) -> str:
        """The model that a request with this query names, or else `other` does; InvalidParameter where none is named."""
        model = query(text).get("model_name")
        if model is None:
            model = self._only() or other()
        if model is None:
            raise InvalidParameter("model_name", None, "the name of a model")
        return model

    def _named(self, flight: InFlightRequest) -> str | None:
        """What the body's field `model_name` says."""
        parts = read_parts(flight.body, flight.head.fields.get("content-type", ""))
        return next((bytes(part.data).decode("utf-8", "replace") for part in parts if part.name == "model_name"), None)

    def _counts(self, target: Target) -> RequestCounters:
        if target.model not in self._counters_of:
            self._counters_of[target.model] = RequestCounters(self.inference.recorder.metrics, target.model, target.version)
        return self._counters_of[target.model]


def _sendable(response: Response) -> bytes | memoryview:
    """The body; one that a worker has given is left where it lies if it is large."""
    body = response.body or b""
    return bytes(body) if isinstance(body, bytes) or len(body) <= COUNTED else flat(body)


def _stream(first: bytes | memoryview, rest: Iterator[Response], about: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """The chunks of a streamed answer; an error after the first cuts the connection, so that no client takes it for the end."""
    yield first
    try:
        for response in rest:
            yield _sendable(response)
    except Cancelled:
        return  # the client has gone
    except JitneyError as error:
        log.error("a streamed answer ended early: %s", error, extra=about)
        raise
