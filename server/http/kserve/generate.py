"""The generate extension: flat JSON in; one JSON object, or server-sent events, out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import falcon

from ....core.call import Call, failed
from ....core.errors import InvalidRequest, JitneyError, ModelFailed
from ....core.model_config import ModelConfig, TensorSpec
from ....core.request import Request, Response
from ....core.tensor import Tensor
from ...tracing.record import Front
from ..retry import RETRY_AFTER, SECONDS, is_temporary
from ..wsgi import at_end
from .documents import Document, dump, parse, repeated
from .errors import describe
from .headers import ForwardedHeaders
from .parameters import custom, own
from .parameters import read as read_parameters
from .resource import Resource, answers_errors, read_body, refuse_coding, responses, sent_headers, set_json, version_of
from .tensors import from_json, scalar_to_json, to_json

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane
    from ...tracing.sampling import Tracing

_TOO_MANY = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of "
    "responses"
)


#: Parameters that say to which sequence a request belongs, as in `infer`.
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
#: The one key whose object is looked into.
_NESTED = "parameters"


class Event(NamedTuple):
    """A server-sent event, and the status that it gives an answer which begins with it."""

    data: bytes
    status: int = 200


class _Generating(Resource):
    def __init__(self, dataplane: DataPlane, limit: int, headers: ForwardedHeaders, tracing: Tracing) -> None:
        self._dataplane, self._limit, self._headers, self._tracing = dataplane, limit, headers, tracing

    def _start(
        self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None
    ) -> tuple[ModelConfig, Call]:
        """Reads the request and queues it."""
        began = time.monotonic_ns()
        version = version_of(version)
        config = self._dataplane.config(model, version)
        refuse_coding(req)
        body = read_body(req, self._limit)
        document = parse(body)
        if (name := repeated(body, document)) is not None:
            raise InvalidRequest(
                f"{'parameter' if config.input(name) is None else 'input'} '{name}' already exists in request"
            )
        request = read(config, document)
        request.parameters = {**request.parameters, **self._headers.of(sent_headers(req))}
        req.context.request_id = request.id
        call = self._dataplane.infer(model, version, request)
        if self._tracing.rules:
            at_end(req, lambda: self._trace(req, resp, call, began))
        return call.config or config, call

    def _trace(self, req: falcon.Request, resp: falcon.Response, call: Call, began: int) -> None:
        """As plans do, when the answer is out."""
        parent = req.get_header("traceparent")
        found = self._tracing.choose(call.config.name if call.config is not None else "", parent)
        if found is not None:
            status, peer = str(resp.status_code), f"{req.env.get('REMOTE_ADDR', '')}:{req.env.get('REMOTE_PORT', '')}"
            front = Front("http", req.method, req.path, peer, status, began, time.monotonic_ns(), parent or "")
            front.state = req.get_header("tracestate") or ""
            self._tracing.take(front, *found, call, None)


class Generate(_Generating):
    """Answers with the model's one response. More or fewer are an error, with status 200 as Triton has it.

    An error that the model sends is a response like the others (`FinalizeResponse` of Triton's HTTP server).
    """

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        config, call = self._start(req, resp, model, version)
        given = list(_given(call, req))
        set_json(resp, render(config, call.request, _right(given[0])) if len(given) == 1 else {"error": _TOO_MANY})


class GenerateStream(_Generating):
    """Answers with an event for each response, errors too. The first decides the status; others may follow an error."""

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, version: str | None = None) -> None:
        config, call = self._start(req, resp, model, version)
        events = _events(config, call, req)
        first = next(events, Event(b""))
        resp.status = first.status
        if first.status == 503 and call.error is not None and is_temporary(call.error):
            resp.set_header(RETRY_AFTER, SECONDS)
        resp.content_type = "text/event-stream; charset=utf-8"
        resp.stream = _Stream(first.data, events)


class _Stream:
    """The body of an event stream; closing it early withdraws the call."""

    def __init__(self, first: bytes, events: Generator[Event]) -> None:
        self._first, self._events = first, events

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        for event in self._events:
            yield event.data

    def close(self) -> None:
        self._events.close()


def _given(call: Call, req: falcon.Request) -> Iterator[Response | JitneyError]:
    """The model's responses and the errors that it sent in their place; raises an error that is none of the model's own."""
    try:
        for response in responses(call, req):
            if response.error is not None:
                yield failed(response.error)
            elif not response.only_ends:
                yield response
    except ModelFailed as error:
        if not error.by_model:
            raise
        yield error


def _right(answer: Response | JitneyError) -> Response:
    if isinstance(answer, JitneyError):
        raise answer
    return answer


def _events(config: ModelConfig, call: Call, req: falcon.Request) -> Generator[Event]:
    """An event for each response, and for an error that ends the stream."""
    try:
        for answer in _given(call, req):
            yield _event(config, call, answer)
    except JitneyError as error:
        yield _event(config, call, error)


def _event(config: ModelConfig, call: Call, answer: Response | JitneyError) -> Event:
    try:
        return Event(_sent(render(config, call.request, _right(answer))))
    except JitneyError as error:
        status, text = describe(error, call.request.id)
        return Event(_sent({"error": text}), status)


def _sent(document: Any) -> bytes:
    return b"data: " + dump(document) + b"\n\n"


def read(config: ModelConfig, document: Document) -> Request:
    """A flat object as a request, by the rules of Triton's generate extension (`ConvertGenerateRequest` of its HTTP server).

    Keys named like the model's inputs are tensors, at the top and inside of `parameters`; all others are request parameters.
    `id` is the request's id, and one of its parameters.
    """
    request = Request()
    nested = document.get(_NESTED, {})
    if config.input(_NESTED) is not None:
        raise InvalidRequest(f"Keyword '{_NESTED}' for nested schema also given as input tensor name")
    if type(nested) is not dict:
        raise InvalidRequest(f"Expected JSON object for keyword: '{_NESTED}': attempt to access JSON non-object as object")
    parameters: dict[str, Any] = {}
    _sort(config, {name: value for name, value in document.items() if name != _NESTED}, request.tensors, parameters)
    try:
        _sort(config, nested, request.tensors, parameters)
    except InvalidRequest as error:
        raise InvalidRequest(f"Converting keyword: '{_NESTED}': {error}") from None
    if "id" in parameters:
        request.id = str(custom("id", parameters["id"]))
    sequence = read_parameters({name: parameters.pop(name) for name in _SEQUENCE if name in parameters})
    request.parameters = parameters | sequence.for_model()
    return request


def _sort(config: ModelConfig, document: Document, tensors: list[Tensor], parameters: dict[str, Any]) -> None:
    """Adds the keys of one level to the tensors or the parameters; none of them may be there already."""
    for name, value in document.items():
        spec = config.input(name)
        if spec is not None:
            if any(tensor.name == name for tensor in tensors):
                raise InvalidRequest(
                    f"input '{name}' already exists in request: it stands beside 'parameters' and inside of it"
                )
            tensors.append(_tensor(config, spec, value))
        elif name in parameters:
            raise InvalidRequest(
                f"parameter '{name}' already exists in request: it stands beside 'parameters' and inside of it"
            )
        else:
            parameters[name] = value if name in _SEQUENCE else custom(name, value)


def _tensor(config: ModelConfig, spec: TensorSpec, value: Any) -> Tensor:
    data = value if isinstance(value, list) else [value]
    return from_json(spec.name, spec.datatype, _shape(config, spec, data), data)


def _shape(config: ModelConfig, spec: TensorSpec, data: list[Any]) -> tuple[int, ...]:
    """The input's shape, the batch axis included: the innermost variable size takes all elements that the fixed ones leave,
    the other variable sizes are 1 (Triton). So a list for an input with fixed dims is a batch."""
    sizes = (-1, *spec.dims) if config.batches else spec.dims
    fixed = prod(size for size in sizes if size != -1)
    count, level = len(data), data
    while level and type(level[0]) is list:
        level = level[0]
        count *= len(level)
    if count % fixed or (-1 not in sizes and count != fixed):
        raise InvalidRequest(
            f"The schema can not convert input '{spec.name}' to tensor with proper shape: it has {count} elements, its shape "
            f"is {list(sizes)}"
        )
    innermost = max((at for at, size in enumerate(sizes) if size == -1), default=-1)
    return tuple(size if size != -1 else count // fixed if at == innermost else 1 for at, size in enumerate(sizes))


def render(config: ModelConfig, request: Request, response: Response) -> dict[str, Any]:
    """A response as a flat object with sorted keys; an output of one element is a scalar."""
    document: dict[str, Any] = {"model_name": config.name, "model_version": config.version, **own(response.parameters)}
    if request.id:
        document["id"] = request.id
    for tensor in response.tensors:
        document[tensor.name] = scalar_to_json(tensor) if prod(tensor.shape) == 1 else to_json(tensor)
    return dict(sorted(document.items()))
