"""A plan as the responder of a Falcon route: its thread waits for the model. For servers that do not run plans, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from urllib.parse import quote

import falcon

from .engine.parser import RequestHead, RequestLine
from .plan import Reply, RoutePlan, WaitingRequest
from .wsgi import at_end, body_of, on_disconnect

#: What may stand in a request's target as it is.
_OF_TARGETS = "/?:@!$&'()*+,;=-._~%"


def run_plan(
    plan: RoutePlan, req: falcon.Request, resp: falcon.Response, read: Callable[[falcon.Request], memoryview] = body_of
) -> None:
    """Answers a request by its plan, which also counts it. The application's middleware has checked who asks.

    `read` gives the body, or raises what the client is to be told.
    """
    flight = WaitingRequest(plan, head_of(req), b"", peer_of(req))
    at_end(req, lambda: plan.end(flight))
    on_disconnect(req, flight.cancel)
    try:
        flight.body = read(req)
        flight.begin_plan()
        reply = plan.render(flight)
    except Exception as error:  # noqa: BLE001 - every accepted request is answered
        reply = plan.refuse(flight, error)
    flight.status = reply.head.code
    send(reply, req, resp)
    req.context.is_counted = True


def send(reply: Reply, req: falcon.Request, resp: falcon.Response) -> None:
    """Makes a reply the response of an application."""
    resp.status = reply.head.status
    spelling = req.env.setdefault("jitney.spelling", {})
    for name, value in (*reply.head.pairs, *reply.own):
        spelling[name.lower()] = name
        if name.lower() == "set-cookie":
            resp.append_header(name, value)
        else:
            resp.set_header(name, value)
    if reply.head.connection:
        req.env["jitney.connection"] = reply.head.connection
    if reply.stream is None:
        resp.data = reply.whole
    else:
        resp.stream = _as_bytes(reply.stream)


def _as_bytes(stream: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """The chunks as WSGI wants them. Closing it closes the stream."""
    try:
        for chunk in stream:
            yield bytes(chunk)
    finally:
        if isinstance(stream, Generator):
            stream.close()


def head_of(req: falcon.Request) -> RequestHead:
    """The head of a request that came as WSGI."""
    sent: list[tuple[str, str]] | None = req.env.get("jitney.headers")
    pairs = sent if sent is not None else [(name.title(), value) for name, value in req.headers.items()]
    fields = {name.lower(): value for name, value in req.headers.items()}
    if not fields.get("content-length", "0").isdecimal():
        del fields["content-length"]
    target = req.env.get("REQUEST_URI") or quote(req.relative_uri, safe=_OF_TARGETS)
    line = f"{req.method} {target} {req.env.get('SERVER_PROTOCOL', 'HTTP/1.1')}"
    return RequestHead(RequestLine(line.encode("latin-1")), pairs, fields)


def peer_of(req: falcon.Request) -> str:
    """The client's address and port."""
    return f"{req.env.get('REMOTE_ADDR', '')}:{req.env.get('REMOTE_PORT', '')}"
